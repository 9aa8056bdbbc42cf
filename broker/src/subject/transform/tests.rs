use proptest::prelude::*;

use super::*;

fn apply(source: &str, destination: &str, subject: &str) -> Option<String> {
    SubjectTransform::new(source, destination)
        .unwrap()
        .apply(subject, 7)
}

#[test]
fn subjects_come_out_as_nats_server_writes_them() {
    let cases = [
        ("foo.*", "bar.$1", "foo.x", "bar.x"),
        (
            "foo.*.*",
            "bar.{{wildcard(2)}}.{{Wildcard( 1 )}}",
            "foo.a.b",
            "bar.b.a",
        ),
        ("foo.>", "bar.>", "foo.a.b", "bar.a.b"),
        (">", "x.>", "a.b", "x.a.b"),
        ("", "x.>", "a", "x.a"),
        (">", ">", "a.b", "a.b"),
        ("foo", "bar", "foo", "bar"),
        ("*.>", "x.$1.>", "a.b.c", "x.a.b.c"),
        ("*", "{{splitfromleft(1,3)}}", "12345", "123.45"),
        ("*", "{{SplitFromRight(1,3)}}", "12345", "12.345"),
        ("*", "{{SliceFromLeft(1,3)}}", "1234567890", "123.456.789.0"),
        ("*", "{{SliceFromRight(1,3)}}", "1234567890", "1.234.567.890"),
        ("*", "{{split(1,-)}}", "-abc-def--ghi-", "abc.def.ghi"),
        ("*", "{{left(1,2)}}", "abcd", "ab"),
        ("*", "{{right(1,2)}}", "abcd", "cd"),
        ("*", "{{left(1,9)}}", "abcd", "abcd"),
        ("*", "{{partition(10,1)}}", "foo", "3"),
        ("*.*", "{{partition(10,1,2)}}", "foo.bar", "0"),
        ("foo.bar", "{{partition(10)}}.x", "foo.bar", "6.x"),
        ("a.*", "b.$x.$1", "a.c", "b.$x.c"),
        ("*", "r.{{random(4)}}", "a", "r.3"),
    ];
    for (source, destination, subject, expected) in cases {
        assert_eq!(
            apply(source, destination, subject).as_deref(),
            Some(expected),
            "{source} -> {destination}"
        );
    }
    assert_eq!(apply("foo.*", "bar.$1", "other.x"), None);
    assert_eq!(apply("*", "{{left(1,1)}}", "é"), None);
}

#[test]
fn what_is_wrong_is_said_as_nats_server_says_it() {
    let cases = [
        ("foo.*", "bar.*", "invalid subject"),
        ("foo.>", "bar", "invalid subject"),
        (
            "foo",
            "bar.$1",
            "invalid mapping destination: wildcard index out of range in $1",
        ),
        (
            "*",
            "$2",
            "invalid mapping destination: wildcard index out of range in $2: [2]",
        ),
        (
            "*",
            "{{nope(1)}}",
            "invalid mapping destination: unknown function in {{nope(1)}}",
        ),
        (
            "*",
            "{{wildcard()}}",
            "invalid mapping destination: not enough arguments passed to the function in {{wildcard()}}",
        ),
        (
            "*",
            "{{split(1)}}",
            "invalid mapping destination: not enough arguments passed to the function in {{split(1)}}",
        ),
        (
            "*",
            "{{left(1,2,3)}}",
            "invalid mapping destination: too many arguments passed to the function in {{left(1,2,3)}}",
        ),
        (
            "*",
            "{{left(a,2)}}",
            "invalid mapping destination: function argument is invalid or in the wrong format in {{left(a,2)}}",
        ),
    ];
    for (source, destination, expected) in cases {
        let error = SubjectTransform::new(source, destination).unwrap_err();
        assert_eq!(error.to_string(), expected, "{source} -> {destination}");
    }
    assert!(SubjectTransform::validate("*", "{{left(1,2)}}").is_ok());
    assert!(SubjectTransform::validate("*", "{{nope(1,2)}}").is_err());
    assert!(SubjectTransform::validate("*", "").is_ok());
    assert!(SubjectTransform::strict("*.*", "a.$1").is_err());
    assert!(SubjectTransform::strict("*", "{{partition(3,1)}}").is_err());
}

fn tokens(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<String>> {
    proptest::collection::vec("[a-z]{1,4}", count)
}

proptest! {
    #[test]
    fn reversing_gives_the_subject_back(values in tokens(1..5), order in any::<u64>(), rest in tokens(0..3)) {
        let mut numbers: Vec<usize> = (1..=values.len()).collect();
        let shift = (order as usize) % numbers.len();
        numbers.rotate_left(shift);
        let tail = if rest.is_empty() { "" } else { ".>" };
        let source = format!("s.{}{tail}", vec!["*"; values.len()].join("."));
        let holders: Vec<String> = numbers.iter().map(|number| format!("${number}")).collect();
        let destination = format!("d.{}{tail}", holders.join("."));
        let transform = SubjectTransform::strict(&source, &destination).unwrap();
        let subject = ["s".to_owned()].into_iter().chain(values).chain(rest).collect::<Vec<_>>().join(".");
        let there = transform.apply(&subject, 0).unwrap();
        prop_assert_eq!(transform.reverse().unwrap().apply(&there, 0), Some(subject));
    }

    #[test]
    fn no_text_panics(source in "[a-z*>.$]{0,12}", destination in "([a-z$>.]|\\{\\{(wildcard|partition|split|left|sliceFromRight)\\([-0-9, a]{0,6}\\)\\}\\}){0,6}", subject in "[a-zé.]{0,16}") {
        if let Ok(transform) = SubjectTransform::new(&source, &destination) {
            drop(transform.apply(&subject, 1));
            transform.reverse().ok();
        }
        SubjectTransform::validate(&source, &destination).ok();
    }

    #[test]
    fn slices_keep_every_byte(token in "[a-z0-9]{1,30}", size in 1_i32..8) {
        for function in ["sliceFromLeft", "sliceFromRight", "splitFromLeft", "splitFromRight"] {
            let destination = format!("{{{{{function}(1,{size})}}}}");
            let out = apply("*", &destination, &token).unwrap();
            prop_assert_eq!(out.replace('.', ""), token.clone());
        }
    }
}
