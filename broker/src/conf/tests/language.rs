use std::path::Path;

use proptest::prelude::*;

use super::{World, parse_error, table};
use crate::conf::{DEPTH_MAX, Node, Table, Value, parse};

/// A value as JSON text, keys in the file's order.
fn show(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{text:?}"),
        Value::Bool(truth) => truth.to_string(),
        Value::Int(number) => number.to_string(),
        Value::Float(number) => format!("{number:?}f"),
        Value::Date(date) => format!("<{date}>"),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(|item| show(&item.value)).collect();
            format!("[{}]", items.join(","))
        }
        Value::Map(table) => show_table(table),
    }
}

fn show_table(table: &Table) -> String {
    let entries: Vec<String> = table
        .iter()
        .map(|(key, node)| format!("{key}:{}", show(&node.value)))
        .collect();
    format!("{{{}}}", entries.join(","))
}

fn shown(text: &str) -> String {
    show_table(&table(text))
}

#[test]
fn separators_comments_and_terminators() {
    for text in [
        "a = 1\nb : 2\nc 3",
        "a=1;b=2;c=3",
        "a:1,b:2,c:3",
        "a 1 # one\nb 2 // two\n\n# more\nc=3;",
        "{\"a\": 1, \"b\": 2,\n 'c': 3}",
        "\r\na: 1\r\nb: 2\r\nc: 3\r\n",
        "a: 1\nb: 2\nc: 3\n}",
    ] {
        assert_eq!(shown(text), "{a:1,b:2,c:3}", "{text:?}");
    }
}

#[test]
fn numbers_and_their_suffixes() {
    for (text, shown_as) in [
        ("a: 1k", "1000"),
        ("a: 1kb", "1024"),
        ("a: 2Ki", "2048"),
        ("a: 2KiB", "2048"),
        ("a: 3m", "3000000"),
        ("a: 3MB", "3145728"),
        ("a: 1G", "1000000000"),
        ("a: 1gb", "1073741824"),
        ("a: 1t", "1000000000000"),
        ("a: 1Pi", "1125899906842624"),
        ("a: 1e", "1000000000000000000"),
        ("a: -1", "-1"),
        ("a: -2k", "-2000"),
        ("a: 22.5", "22.5f"),
        ("a: -0.5", "-0.5f"),
        ("a: 5s", "\"5s\""),
        ("a: 2h30m", "\"2h30m\""),
        ("a: 1mibx", "\"1mibx\""),
        ("a: 127.0.0.1:4222", "\"127.0.0.1:4222\""),
        ("a: 0.0.0.0:-1", "\"0.0.0.0:-1\""),
        ("a: 2006-01-02T15:04:05Z", "<2006-01-02T15:04:05Z>"),
        ("a: [1, 2,3]", "[1,2,3]"),
        ("a: [1k\n 2]", "[1000,2]"),
    ] {
        assert_eq!(shown(text), format!("{{a:{shown_as}}}"), "{text:?}");
    }
}

#[test]
fn strings_of_all_kinds() {
    for (text, shown_as) in [
        (r#"a: "x y""#, r#""x y""#),
        (r"a: 'x \n y'", r#""x \\n y""#),
        (r#"a: "tab\tquote\" \x41""#, r#""tab\tquote\" A""#),
        (r"a: foo\tbar", r#""foo\tbar""#),
        ("a: $2a$11$abc.def/", r#""$2a$11$abc.def/""#),
        ("a: nats://h:4222", r#""nats://h:4222""#),
        ("a: (\nfirst\n (second)\n)\n", r#""\nfirst\n (second)\n""#),
        ("a: yes", "true"),
        ("a: OFF", "false"),
        ("a: \"off\"", "\"off\""),
        ("a: ünïcode", "\"ünïcode\""),
    ] {
        assert_eq!(shown(text), format!("{{a:{shown_as}}}"), "{text:?}");
    }
}

#[test]
fn maps_and_arrays_within_each_other() {
    let text = "accounts {\n A: { users: [ {user: a, password: b}, {user = c\n password = d } ] }\n B {}\n}\nlast: []";
    assert_eq!(
        shown(text),
        r#"{accounts:{A:{users:[{user:"a",password:"b"},{user:"c",password:"d"}]},B:{}},last:[]}"#
    );
}

#[test]
fn a_key_given_twice_has_its_last_value() {
    assert_eq!(shown("a: 1\nb: 2\na: 3"), "{a:3,b:2}");
}

#[test]
fn variables_come_from_the_file_then_from_the_environment() {
    let world = World::of(
        &[],
        &[
            ("PORT", "4333"),
            ("NAME", "'a b'"),
            ("LIST", "[x, $PORT]"),
            ("LOOP", "$LOOP"),
            ("BAD", "\"x"),
        ],
    );
    let parse = |text: &str| parse(Path::new("n.conf"), text, &world);
    let text = "PASS: s3cret\nport: $PORT\nname: $NAME\nusers: [ $PASS ]\nm { PASS: inner, deep { p: $PASS } }\nl: $LIST";
    let table = parse(text).unwrap();
    assert_eq!(
        show_table(&table),
        r#"{PASS:"s3cret",port:4333,name:"a b",users:["s3cret"],m:{PASS:"inner",deep:{p:"inner"}},l:["x",4333]}"#
    );
    assert!(table.get("PASS").is_some_and(|node| node.is_referenced));
    let error = |text: &str| parse(text).expect_err("an error").to_string();
    assert_eq!(
        error("a: 1\nb: $NOWHERE"),
        "n.conf:2:4: variable reference for 'NOWHERE' on line 2 can not be found"
    );
    assert!(error("b: $LOOP").contains("variable reference cycle for 'LOOP'"));
    assert!(
        error("b: $BAD")
            .starts_with("n.conf:1:4: variable reference for 'BAD' on line 1 could not be parsed")
    );
}

#[test]
fn includes_are_beside_the_file() {
    let world = World::of(
        &[
            (
                "/etc/auth/users.conf",
                "users = [{user: a, password: $PASS}]\ninclude './more.conf'",
            ),
            ("/etc/auth/more.conf", "timeout = 3"),
            ("/etc/vars.conf", "PORT: 4444"),
            ("/etc/loop.conf", "include loop.conf"),
            ("/etc/bad.conf", "a: 1\n b = ]"),
        ],
        &[("PASS", "p")],
    );
    let parse = |text: &str| parse(Path::new("/etc/nats.conf"), text, &world);
    let table =
        parse("include vars.conf\nport: $PORT\nauthorization {\n include \"auth/users.conf\"\n}").unwrap();
    assert_eq!(
        show_table(&table),
        r#"{PORT:4444,port:4444,authorization:{users:[{user:"a",password:"p"}],timeout:3}}"#
    );
    let error = |text: &str| parse(text).expect_err("an error").to_string();
    assert_eq!(
        error("include nowhere.conf"),
        "/etc/nats.conf:1:1: error parsing include file 'nowhere.conf', open /etc/nowhere.conf: no such file or directory"
    );
    assert!(error("include loop.conf").contains("more than 10 deep"));
    assert!(error("include bad.conf").starts_with("/etc/bad.conf:2:"));
}

#[test]
fn errors_say_where() {
    for (text, error) in [
        (
            "a: [1, 2",
            "/etc/nats.conf:1:4: Parse error: the file ends within the array that starts here",
        ),
        (
            "a {\n b: 1\n",
            "/etc/nats.conf:1:3: Parse error: the file ends within the map that starts here",
        ),
        (
            "a: \"x\nb: 1",
            "/etc/nats.conf:1:4: Parse error: the file ends within a string that starts here",
        ),
        (
            "a:\n1",
            "/etc/nats.conf:1:3: Parse error: expected a value, but found a new line",
        ),
        (
            "a: 1\nb",
            "/etc/nats.conf:2:1: Parse error: config is invalid: \"b\" has no value",
        ),
        (
            "a: 1 2",
            "/etc/nats.conf:1:6: Parse error: expected ',', a new line or '}' behind a value, but got '2'",
        ),
        (
            "a: [1 2]",
            "/etc/nats.conf:1:7: Parse error: expected ',', a new line or ']' behind an array's value, but got '2'",
        ),
        (
            "a: .5",
            "/etc/nats.conf:1:4: Parse error: a number starts with a digit, not with '.'",
        ),
        (
            "a: 1.x",
            "/etc/nats.conf:1:6: Parse error: expected a digit behind the '.', but got 'x'",
        ),
        (
            "a: 99999999999999999999",
            "/etc/nats.conf:1:24: Parse error: integer '99999999999999999999' is out of the range",
        ),
        (
            "a: \"\\q\"",
            "/etc/nats.conf:1:6: Parse error: expected one of the escapes \\xXX, \\t, \\n, \\r, \\\", \\\\, but got 'q'",
        ),
        (
            "}\na: 1",
            "/etc/nats.conf:1:1: Parse error: this '}' ends nothing",
        ),
        (
            ": 1",
            "/etc/nats.conf:1:1: Parse error: expected a key, but got ':'",
        ),
        (
            "{ a: 1",
            "/etc/nats.conf:1:7: Parse error: expected a '}', but the file ends",
        ),
        (
            "a: [,]",
            "/etc/nats.conf:1:5: Parse error: expected a value or a ']', but got ','",
        ),
        (
            "a: (\nx",
            "/etc/nats.conf:1:4: Parse error: the file ends within a block that starts here",
        ),
    ] {
        assert_eq!(parse_error(text), error, "{text:?}");
    }
}

#[test]
fn depth_and_repetition_have_a_bound() {
    let deep = |depth: usize| format!("a: {}{}", "[".repeat(depth), "]".repeat(depth));
    table(&deep(DEPTH_MAX));
    assert!(parse_error(&deep(DEPTH_MAX + 1)).contains("nested more than 64 deep"));
    assert!(parse_error(&deep(1_000_000)).contains("nested more than 64 deep"));
    assert!(parse_error(&"{".repeat(1_000_000)).contains("nested more than 64 deep"));
    // Each line is ten times the one before it.
    let mut laughs = "v0: [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
    for line in 1..12 {
        let items = vec![format!("$v{}", line - 1); 10].join(",");
        laughs.push_str(&format!("v{line}: [{items}]\n"));
    }
    assert!(parse_error(&laughs).contains("come to more than"));
    // Each line is one deeper than the one before it.
    let mut deeper = "v0: [x]\n".to_owned();
    for line in 1..100 {
        deeper.push_str(&format!("v{line}: [$v{}]\n", line - 1));
    }
    assert!(parse_error(&deeper).contains("nested more than 64 deep"));
}

/// What a naive writer makes of a value, in one of the language's styles.
fn write(value: &Value, style: u8, into: &mut String) {
    match value {
        Value::String(text) if style.is_multiple_of(2) || text.contains('\'') => {
            into.push('"');
            for c in text.chars() {
                match c {
                    '"' | '\\' => into.extend(['\\', c]),
                    c => into.push(c),
                }
            }
            into.push('"');
        }
        Value::String(text) => into.push_str(&format!("'{text}'")),
        Value::Bool(truth) => into.push_str(match (truth, style % 3) {
            (true, 0) => "true",
            (true, 1) => "YES",
            (true, _) => "on",
            (false, 0) => "False",
            (false, 1) => "no",
            (false, _) => "off",
        }),
        Value::Int(number) => into.push_str(&number.to_string()),
        Value::Float(number) => into.push_str(&format!("{number:?}")),
        Value::Date(date) => into.push_str(date),
        Value::Array(items) => {
            into.push('[');
            for item in items {
                write(&item.value, style.wrapping_add(1), into);
                into.push_str(if style.is_multiple_of(3) { ", " } else { "\n" });
            }
            into.push(']');
        }
        Value::Map(table) => {
            into.push_str("{ ");
            write_entries(table, style, into);
            into.push('}');
        }
    }
}

fn write_entries(table: &Table, style: u8, into: &mut String) {
    for (key, node) in table.iter() {
        into.push_str(key);
        into.push_str([" ", "=", ":", " : ", " = "][usize::from(style % 5)]);
        write(&node.value, style.wrapping_mul(7).wrapping_add(1), into);
        into.push_str(["\n", ";", ",", " # said\n", " //\n"][usize::from(style / 5 % 5)]);
    }
}

fn values() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        "[ -~äß€]{0,12}".prop_map(Value::String),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        (-1e6..1e6_f64).prop_map(|number| Value::Float((number * 8.0).round() / 8.0 + 0.5)),
    ];
    let node = |value| Node {
        at: Default::default(),
        value,
        is_referenced: false,
    };
    scalar.prop_recursive(4, 40, 6, move |inner| {
        let items = prop::collection::vec(inner.clone(), 0..6);
        let entries = prop::collection::vec(("[a-hj-z_][a-z0-9_]{0,8}", inner), 0..6);
        prop_oneof![
            items.prop_map(move |items| Value::Array(items.into_iter().map(node).collect())),
            entries.prop_map(move |entries| {
                let mut table = Table::default();
                for (key, value) in entries {
                    table.set(key, node(value));
                }
                Value::Map(table)
            }),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read(values in prop::collection::vec(values(), 1..5), style: u8) {
        let mut wanted = Table::default();
        for (index, value) in values.into_iter().enumerate() {
            let node = Node { at: Default::default(), value, is_referenced: false };
            wanted.set(format!("key{index}"), node);
        }
        let mut text = String::new();
        write_entries(&wanted, style, &mut text);
        let read = parse(Path::new("x"), &text, &World::default());
        prop_assert!(read.is_ok(), "{text:?}: {read:?}");
        prop_assert_eq!(show_table(&read.unwrap()), show_table(&wanted), "{:?}", text);
    }

    #[test]
    fn any_text_is_read_or_refused(text in r#"([a-z$.:=,;{}\[\]()"'\\#/\n 0-9-]|include |true|\PC){0,60}"#) {
        let world = World::of(&[("a", "b: 1")], &[("a", "$b"), ("b", "{c: 1}")]);
        if let Err(err) = parse(Path::new("x"), &text, &world) {
            prop_assert!(err.at.is_some());
        }
    }
}
