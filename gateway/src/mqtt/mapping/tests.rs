use proptest::prelude::*;

use super::*;

#[test]
fn topics_map_as_nats_server_maps_them() {
    for (topic, subject) in [
        ("foo", "foo"),
        ("foo/bar", "foo.bar"),
        ("/", "/./"),
        ("//", "/././"),
        ("///", "/./././"),
        ("/foo", "/.foo"),
        ("//foo", "/./.foo"),
        ("foo/", "foo./"),
        ("foo//", "foo././"),
        ("foo//bar", "foo./.bar"),
        ("foo///bar", "foo././.bar"),
        ("/foo/bar/", "/.foo.bar./"),
        ("foo.bar", "foo//bar"),
        (".foo", "//foo"),
        ("foo.", "foo//"),
        ("..", "////"),
        ("/.foo", "/.//foo"),
        ("foo/.", "foo.//"),
        ("./", "//./"),
        ("a./.b", "a//.//b"),
        ("a*b/c>", "a*b.c>"),
        ("é/温度", "é.温度"),
        ("sensors/temperature/device001", "sensors.temperature.device001"),
    ] {
        assert_eq!(topic_to_subject(topic).as_deref(), Ok(subject), "{topic}");
        assert_eq!(
            subject_to_topic(subject.as_bytes()).as_deref(),
            Ok(topic),
            "{subject}"
        );
    }
}

#[test]
fn filters_map_with_wildcards_and_the_parent_level() {
    for (filter, subject, parent) in [
        ("#", ">", None),
        ("+", "*", None),
        ("+/+", "*.*", None),
        ("a/#", "a.>", Some("a")),
        ("/#", "/.>", Some("/")),
        ("a//#", "a./.>", Some("a./")),
        ("+/#", "*.>", Some("*")),
        ("a/+/b", "a.*.b", None),
        ("/+", "/.*", None),
        ("+/", "*./", None),
        ("a.b/+", "a//b.*", None),
    ] {
        let expected = FilterSubjects {
            subject: subject.into(),
            parent: parent.map(Into::into),
        };
        assert_eq!(filter_to_subjects(filter), Ok(expected), "{filter}");
    }
}

#[test]
fn what_cannot_cross_is_refused() {
    let deep = "a/".repeat(16) + "a";
    let long = "a".repeat(513);
    for (topic, error) in [
        ("", TopicError::Empty),
        ("a\0b", TopicError::Nul),
        ("a b", TopicError::Character),
        ("a\r\nPUB x 0\r\n", TopicError::Character),
        ("a\tb", TopicError::Character),
        ("a\u{7f}b", TopicError::Character),
        ("a\u{85}b", TopicError::Character),
        ("*", TopicError::NatsWildcard),
        ("a/>", TopicError::NatsWildcard),
        ("a/*/b", TopicError::NatsWildcard),
        ("$SYS/x", TopicError::Internal),
        ("$JS/API/STREAM/DELETE/x", TopicError::Internal),
        ("$share/g/t", TopicError::Internal),
        ("$", TopicError::Internal),
        ("_INBOX/x", TopicError::Internal),
        (&deep, TopicError::TooDeep),
        (&long, TopicError::TooLong),
    ] {
        assert_eq!(topic_to_subject(topic), Err(error), "{topic:?}");
        assert_eq!(filter_to_subjects(topic), Err(error), "{topic:?}");
    }
    for topic in ["+", "a/+", "a+", "#", "a#/b"] {
        assert_eq!(topic_to_subject(topic), Err(TopicError::Wildcard), "{topic}");
    }
    for filter in ["a+", "+a/b", "#/a", "a#", "a/#/b", "##", "++"] {
        assert_eq!(filter_to_subjects(filter), Err(TopicError::Wildcard), "{filter}");
    }
}

#[test]
fn nats_subjects_that_have_no_topic_stay_inside() {
    for (subject, error) in [
        ("$SYS.ACCOUNT.x", TopicError::Internal),
        ("$JS.API.INFO", TopicError::Internal),
        ("$MQTT.msgs.a", TopicError::Internal),
        ("_INBOX.abc.1", TopicError::Internal),
        ("cmd.+", TopicError::Wildcard),
        ("cmd.#", TopicError::Wildcard),
        ("cmd.\u{1}", TopicError::Character),
        ("/", TopicError::Empty),
        ("", TopicError::Empty),
    ] {
        assert_eq!(subject_to_topic(subject.as_bytes()), Err(error), "{subject:?}");
    }
    assert_eq!(subject_to_topic(b"cmd.\xff"), Err(TopicError::Utf8));
    // As nats-server: a slash that no topic produces is passed over.
    assert_eq!(subject_to_topic(b"cmd.a/b").as_deref(), Ok("cmd/ab"));
}

#[test]
fn filters_match_topics_by_the_standard() {
    for (filter, topic, matches) in [
        ("#", "a", true),
        ("#", "/a", true),
        ("#", "$SYS/a", false),
        ("+/a", "$SYS/a", false),
        ("$SYS/#", "$SYS/a", true),
        ("a/#", "a", true),
        ("a/#", "a/", true),
        ("a/#", "a/b/c", true),
        ("a/#", "ab", false),
        ("a/+", "a", false),
        ("a/+", "a/", true),
        ("a/+", "a/b/c", false),
        ("+/+", "/a", true),
        ("/+", "/a", true),
        ("+", "/a", false),
    ] {
        assert_eq!(filter_matches(filter, topic), matches, "{filter} {topic}");
    }
}

/// NATS matching, said as plainly as possible: the oracle for what the mapped subjects select.
fn subject_matches(pattern: &str, subject: &str) -> bool {
    let pattern: Vec<&str> = pattern.split('.').collect();
    let subject: Vec<&str> = subject.split('.').collect();
    for (index, token) in pattern.iter().enumerate() {
        match (*token, subject.get(index)) {
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (a, Some(b)) if a == *b => {}
            _ => return false,
        }
    }
    pattern.len() == subject.len()
}

/// nats-server's mapping as its documentation words it, character by character.
fn naive_subject(topic: &str) -> String {
    let levels: Vec<String> = topic
        .split('/')
        .map(|level| {
            if level.is_empty() {
                "/".to_owned()
            } else {
                level.replace('.', "//")
            }
        })
        .collect();
    levels.join(".")
}

fn any_level() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        "[a-c.]{1,3}",
        "[a-z0-9_é温-]{1,6}",
        "[a.*>]{2,4}",
    ]
}

fn any_topic() -> impl Strategy<Value = String> {
    proptest::collection::vec(any_level(), 1..6)
        .prop_map(|levels| levels.join("/"))
        .prop_filter("valid", |topic| topic_to_subject(topic).is_ok())
}

fn any_filter() -> impl Strategy<Value = String> {
    let level = prop_oneof![3 => any_level(), 2 => Just("+".to_owned())];
    (proptest::collection::vec(level, 0..5), any::<bool>())
        .prop_map(|(mut levels, multi)| {
            if multi {
                levels.push("#".to_owned());
            }
            levels.join("/")
        })
        .prop_filter("valid", |filter| filter_to_subjects(filter).is_ok())
}

proptest! {
    #[test]
    fn a_topic_survives_the_way_there_and_back(topic in any_topic()) {
        let subject = topic_to_subject(&topic).unwrap();
        prop_assert_eq!(&subject, &naive_subject(&topic));
        prop_assert_eq!(subject_to_topic(subject.as_bytes()).unwrap(), topic);
    }

    #[test]
    fn no_topic_becomes_more_than_one_literal_subject(topic in "\\PC*|[a-c/.*>+#$ \\r\\n\\t\\x00\\x7f]{0,12}") {
        if let Ok(subject) = topic_to_subject(&topic) {
            prop_assert!(subject.split('.').all(|token| !token.is_empty() && token != "*" && token != ">"));
            prop_assert!(!subject.starts_with('$') && !subject.starts_with("_INBOX."));
            prop_assert!(!subject.contains(|c: char| c.is_control() || c.is_ascii_whitespace()));
            prop_assert_eq!(subject.split('.').count(), topic.split('/').count());
        }
    }

    #[test]
    fn what_leaves_as_a_topic_is_a_valid_topic_name(subject in proptest::collection::vec(any::<u8>(), 0..24)) {
        if let Ok(topic) = subject_to_topic(&subject) {
            prop_assert!(!topic.is_empty() && !topic.starts_with('$'));
            prop_assert!(!topic.contains(['+', '#']) && !topic.contains(char::is_control));
        }
    }

    #[test]
    fn the_subjects_of_a_filter_select_what_the_filter_matches(filter in any_filter(), topic in any_topic()) {
        let subjects = filter_to_subjects(&filter).unwrap();
        let subject = topic_to_subject(&topic).unwrap();
        let selected = subjects.iter().filter(|pattern| subject_matches(pattern, &subject)).count();
        // Never by both: a message reaches a subscription once.
        prop_assert!(selected <= 1);
        prop_assert_eq!(selected == 1, filter_matches(&filter, &topic));
    }
}
