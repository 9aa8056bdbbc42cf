use proptest::prelude::*;

use super::*;

fn read_all(bytes: &[u8], step: usize) -> Result<Vec<u8>, ArchiveError> {
    let mut reader = FrameReader::default();
    let mut out = Vec::new();
    for piece in bytes.chunks(step) {
        reader.push(piece);
        while reader.read(&mut out)? {}
    }
    Ok(out)
}

fn write_all(bytes: &[u8], step: usize) -> Vec<u8> {
    let mut writer = FrameWriter::new();
    for piece in bytes.chunks(step) {
        writer.write(piece).unwrap();
    }
    writer.flush().unwrap();
    writer.take(usize::MAX)
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    let words = prop_oneof![
        Just(b"temperature=".to_vec()),
        Just(vec![0; 300]),
        proptest::collection::vec(any::<u8>(), 0..20),
    ];
    proptest::collection::vec(words, 0..800).prop_map(|words| words.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_is_read(text in text(), write in 1_usize..5000, read in 1_usize..5000) {
        prop_assert_eq!(read_all(&write_all(&text, write), read), Ok(text));
    }

    #[test]
    fn a_flipped_bit_is_found(text in text(), at in any::<prop::sample::Index>(), bit in 0_u8..8) {
        prop_assume!(!text.is_empty());
        let mut bytes = write_all(&text, 1000);
        let at = at.index(bytes.len());
        bytes[at] ^= 1_u8 << bit;
        // A bit in a length or type may make a chunk longer or skipped, one in an offset may mean the same: never other bytes.
        if let Ok(read) = read_all(&bytes, 4096) {
            prop_assert!(read.len() < text.len() || read == text);
        }
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        read_all(&bytes, 50).ok();
        decompress(&bytes, &mut Vec::new()).ok();
    }

    #[test]
    fn no_tags_panic(tags in proptest::collection::vec((any::<u8>(), 0_u8..3), 0..100)) {
        let mut block = vec![0xff, 0xff, 3];
        block.extend(tags.into_iter().flat_map(|(tag, small)| [tag, small, 0]));
        let mut out = Vec::new();
        decompress(&block, &mut out).ok();
        prop_assert!(out.len() <= 0xffff);
    }
}

/// Written by `s2.NewWriter` of github.com/klauspost/compress 1.19.1: `golden_text`, in each of its ways to compress.
const GOLDEN: [&[u8]; 3] = [
    include_bytes!("golden/default.s2"),
    include_bytes!("golden/better.s2"),
    include_bytes!("golden/best.s2"),
];

/// Has literals of every length class, far and near copies, and runs.
fn golden_text() -> Vec<u8> {
    let mut state = 1_u32;
    let mut noise = |count: usize| -> Vec<u8> {
        let mut byte = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        (0..count).map(|_| byte()).collect()
    };
    let mut text = noise(1500);
    for at in 0..2000 {
        text.extend_from_slice(format!("device-{} temperature={}.5;", at % 17, at % 40).as_bytes());
    }
    text.extend(std::iter::repeat_n(7, 100_000));
    text.extend(noise(300));
    text.extend_from_within(10..1400);
    text.extend_from_within(30_000..30_400);
    text
}

#[test]
fn streams_of_the_go_library_are_read() {
    for (index, golden) in GOLDEN.into_iter().enumerate() {
        let read = read_all(golden, 1000).unwrap_or_else(|err| panic!("stream {index}: {err}"));
        assert!(read == golden_text(), "stream {index} is read as another");
    }
}

#[test]
fn repeated_offsets_are_those_of_s2() {
    // "abcd", a copy of 4 from 4, then repeats of 4, of 5+4+4, of 256+4 and of 65536+4 bytes.
    let block: &[u8] = &[
        0xa9, 0x84, 0x04, 0x0c, b'a', b'b', b'c', b'd', 0x01, 4, 0x01, 0, 0x15, 0, 5, 0x19, 0, 1, 0, 0x1d, 0,
        0, 0, 0,
    ];
    let mut out = Vec::new();
    let expected = 4 + 4 + 4 + 13 + 261 + 65540;
    let mut with_length = Vec::new();
    let mut len = expected;
    while len >= 0x80 {
        with_length.push((len & 0x7f) as u8 | 0x80);
        len >>= 7;
    }
    with_length.push(len as u8);
    with_length.extend_from_slice(&block[3..]);
    decompress(&with_length, &mut out).unwrap();
    assert!(out.iter().zip(b"abcd".iter().cycle()).all(|(a, b)| a == b));
    assert_eq!(out.len(), expected);
}

#[test]
fn a_block_that_says_too_much_is_refused() {
    let mut out = Vec::new();
    // 4 GiB.
    let result = decompress(&[0xff, 0xff, 0xff, 0xff, 0x0f, 0], &mut out);
    assert!(matches!(result, Err(ArchiveError::BlockTooLarge { .. })));
    // A repeat of nothing, an offset in front of the beginning, more than was said.
    for block in [&[4, 0x01, 0][..], &[8, 0, 1, 0x01, 9], &[1, 4, 1, 2]] {
        assert_eq!(decompress(block, &mut out), Err(ArchiveError::Block));
    }
    let too_long = [&[0xff, 6, 0, 0][..], b"S2sTwO", &[0, 0xff, 0xff, 0xff]].concat();
    assert!(matches!(
        read_all(&too_long, 1),
        Err(ArchiveError::BlockTooLarge { .. })
    ));
    assert_eq!(read_all(b"no frames at all", 3), Err(ArchiveError::NotCompressed));
}
