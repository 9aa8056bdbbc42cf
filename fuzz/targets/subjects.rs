//! Matching subjects: what matches a filter overlaps it and is kept by every filter around it.
#![no_main]

use tarn_broker::subject;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let mut lines = text.lines();
    let (one, other, literal) = (lines.next(), lines.next(), lines.next());
    let (Some(one), Some(other), Some(literal)) = (one, other, literal) else {
        return;
    };
    if !subject::is_valid_filter(one)
        || !subject::is_valid_filter(other)
        || !subject::is_valid_literal(literal)
    {
        return;
    }
    let (first, second) = (subject::matches(one, literal), subject::matches(other, literal));
    assert!(!(first && second) || subject::overlaps(one, other));
    assert!(!(first && subject::is_subset(one, other)) || second);
    assert_eq!(subject::overlaps(one, other), subject::overlaps(other, one));
});
