use std::io::Write;

use expect_test::expect;
use proptest::prelude::*;

use super::*;

fn load(
    file: Option<&str>,
    environment: &[(&str, &str)],
    flags: &[(&'static str, &'static str, &str)],
) -> Result<Settings, String> {
    let mut holder = None;
    if let Some(text) = file {
        let mut made = tempfile::NamedTempFile::new().expect("temporary file");
        made.write_all(text.as_bytes()).expect("write");
        holder = Some(made);
    }
    let path = holder.as_ref().map(|file| file.path().to_owned());
    let sources = Sources {
        file: path.clone(),
        environment: environment
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect(),
        flags: flags
            .iter()
            .map(|(name, key, value)| Flag {
                name,
                key,
                value: (*value).to_owned(),
            })
            .collect(),
    };
    Settings::load(sources)
        .map(|loaded| loaded.settings)
        .map_err(|errors| {
            let text = errors.to_string();
            match path {
                Some(path) => text.replace(&path.display().to_string(), "tarn.toml"),
                None => text,
            }
        })
}

fn error_of(file: &str) -> String {
    load(Some(file), &[], &[]).expect_err("must be refused")
}

#[test]
fn no_sources_give_the_defaults() {
    assert_eq!(load(None, &[], &[]), Ok(Settings::default()));
    assert_eq!(
        load(Some(""), &[("HOME", "/root"), ("TARNISH", "x")], &[]),
        Ok(Settings::default())
    );
}

#[test]
fn the_default_settings_as_toml() {
    expect![[r#"
        data_dir = "tarn-data"
        allow_anonymous = false

        [nats]
        listen = "127.0.0.1:4222"

        [store]
        scrub_rate = "4MiB"
        compact_rate = "16MiB"
        max_damaged = "256MiB"

        [monitor]
        listen = "127.0.0.1:8222"

        [mqtt]
        listen = "127.0.0.1:1883"

        [http]
        listen = "127.0.0.1:8181"

        [[stream]]
        name = "SENSORS"
        subjects = [
            "sensors.>",
            "iot.>",
        ]
        max_age = "24h"

        [lake]
        warehouse = "tarn-data/warehouse"
        commit_interval = "10s"
        commit_rows = 250000
        commit_bytes = "64MiB"

        [[window]]
        table = "readings_1m"
        every = "1m"

        [readings]
        subjects = [
            "sensors.<sensor>.<device>",
            "iot.sensors.<sensor>.<device>",
        ]

        [log]
        level = "info"
        format = "auto"
    "#]]
    .assert_eq(&Settings::default().to_toml());
}

#[test]
fn printed_settings_read_back_as_the_same() {
    let mut settings = Settings::default();
    settings.lake.warehouse = Some(settings.warehouse_dir());
    assert_eq!(load(Some(&settings.to_toml()), &[], &[]), Ok(settings));
}

#[test]
fn flag_beats_environment_beats_file_beats_default() {
    let file = "data_dir = \"from-file\"\n[mqtt]\nlisten = \"127.0.0.1:1\"\n[lake]\ncommit_interval = \"1s\"";
    let environment = [
        ("TARN_MQTT__LISTEN", "127.0.0.1:2"),
        ("TARN_LAKE__COMMIT_INTERVAL", "2s"),
    ];
    let flags = [("--commit-interval", "lake.commit_interval", "3s")];
    let settings = load(Some(file), &environment, &flags).expect("valid");
    assert_eq!(settings.data_dir, PathBuf::from("from-file"));
    assert_eq!(settings.mqtt.listen, Listen::loopback(2));
    assert_eq!(settings.lake.commit_interval, Span::seconds(3));
    assert_eq!(settings.http.listen, Listen::loopback(8181));
}

#[test]
fn lists_numbers_and_booleans_from_the_environment() {
    let environment = [
        (
            "TARN_READINGS__SUBJECTS",
            "a.<sensor>.<device>, b.<sensor>.<device>",
        ),
        ("TARN_LAKE__COMMIT_ROWS", "77"),
        ("TARN_LAKE__COMMIT_BYTES", "8MiB"),
        ("TARN_ALLOW_ANONYMOUS", "true"),
        ("TARN_MQTT__LISTEN", "0.0.0.0:1883"),
        ("TARN_MONITOR__LISTEN", "off"),
    ];
    let settings = load(None, &environment, &[]).expect("valid");
    assert_eq!(
        settings.readings.subjects,
        ["a.<sensor>.<device>", "b.<sensor>.<device>"]
    );
    assert_eq!(settings.lake.commit_rows, 77);
    assert_eq!(settings.lake.commit_bytes, Size::mebibytes(8));
    assert!(settings.allow_anonymous);
    assert_eq!(settings.monitor.listen, Listen::Off);
}

#[test]
fn variables_of_kubernetes_and_of_other_commands_are_no_settings() {
    let environment = [
        ("TARN_PORT", "tcp://10.0.0.1:4222"),
        ("TARN_SERVICE_HOST", "10.0.0.1"),
        ("TARN_SERVICE_PORT_MQTT", "1883"),
        ("TARN_PORT_4222_TCP_ADDR", "10.0.0.1"),
        ("TARN_NATS_PORT_4222_TCP", "tcp://10.0.0.1:4222"),
        ("TARN_CONFIG", "tarn.toml"),
        ("TARN_DEMO__DEVICES", "7"),
        ("TARN_E2E_CACHE", "/tmp"),
        ("TARN_E2E_KILLS", "20"),
        ("TARN_BIN", "/tmp/tarn"),
    ];
    assert_eq!(load(None, &environment, &[]), Ok(Settings::default()));
}

#[test]
fn unknown_keys_are_named_with_the_nearest_known_one() {
    expect![[r#"
        tarn.toml: lake.comit_interval: unknown key; did you mean `lake.commit_interval`?
        tarn.toml: mqtt.commit_rows: unknown key; did you mean `lake.commit_rows`?
        tarn.toml: strem: unknown key; did you mean `stream`?
        tarn.toml: zzz: unknown key; docs/src/configuration.md lists the known ones"#]]
    .assert_eq(&error_of(
        "zzz = 1\n[mqtt]\ncommit_rows = 3\n[lake]\ncomit_interval = \"1s\"\n[[strem]]\nname = \"S\"\n",
    ));
    expect!["tarn.toml: stream[1].max_agee: unknown key; did you mean `stream[].max_age`?"].assert_eq(&error_of(
        "[[stream]]\nname=\"A\"\nsubjects=[\"a\"]\n[[stream]]\nname=\"B\"\nsubjects=[\"b\"]\nmax_agee=\"1h\"\n",
    ));
    expect!["TARN_DATADIR: datadir: unknown key; did you mean `data_dir`?"]
        .assert_eq(&load(None, &[("TARN_DATADIR", "x")], &[]).expect_err("refused"));
    expect!["TARN_MQTT__LISTN: mqtt.listn: unknown key; did you mean `mqtt.listen`?"]
        .assert_eq(&load(None, &[("TARN_MQTT__LISTN", "x")], &[]).expect_err("refused"));
    expect!["TARN_MQQT__LISTEN: mqqt: unknown key; did you mean `mqtt`?"]
        .assert_eq(&load(None, &[("TARN_MQQT__LISTEN", "x")], &[]).expect_err("refused"));
}

#[test]
fn a_folder_without_a_name_and_a_level_that_is_none() {
    expect!["tarn.toml: data_dir: is empty; name a folder, such as tarn-data"]
        .assert_eq(&load(Some("data_dir = \"\""), &[], &[]).expect_err("refused"));
    expect!["tarn.toml: log.level: `loud` is not a level; use error, warn, info, debug, trace or off, or a filter such as info,tarn_broker=debug"]
        .assert_eq(&load(Some("[log]\nlevel = \"loud\""), &[], &[]).expect_err("refused"));
    for level in ["off", "WARN", "info,tarn_broker=debug", "tarn=trace", "3"] {
        let file = format!("[log]\nlevel = \"{level}\"");
        assert!(load(Some(&file), &[], &[]).is_ok(), "{level}");
    }
}

#[test]
fn bad_values_name_source_key_and_form() {
    for (file, expected) in [
        (
            "[mqtt]\nlisten = 1883",
            expect![
                "tarn.toml: mqtt.listen: `1883` is not an address; write it like `127.0.0.1:1883`, or `off`"
            ],
        ),
        (
            "[lake]\ncommit_interval = \"soon\"",
            expect![
                "tarn.toml: lake.commit_interval: `soon` is not a duration; write it like `10s`, `250ms` or `24h`"
            ],
        ),
        (
            "[[stream]]\nname = \"A\"\nsubjects = [\"a\"]\nmax_bytes = \"big\"",
            expect!["tarn.toml: stream[0].max_bytes: `big` is not a size; write it like `512M` or `8GiB`"],
        ),
        (
            "[[stream]]\nname = \"A\"",
            expect!["tarn.toml: stream[0].subjects: is missing; add it"],
        ),
        (
            "allow_anonymous = \"perhaps\"",
            expect![[r#"tarn.toml: allow_anonymous: expected a boolean, found string "perhaps""#]],
        ),
        (
            "log.format = \"xml\"",
            expect!["tarn.toml: log.format: `xml` is not a format; use `auto`, `text` or `json`"],
        ),
    ] {
        expected.assert_eq(&error_of(file));
    }
    let refused = load(Some("[mqtt]"), &[("TARN_MQTT__LISTEN", "x")], &[]).expect_err("refused");
    expect![
        "TARN_MQTT__LISTEN: mqtt.listen: `x` is not an address; write it like `127.0.0.1:1883`, or `off`"
    ]
    .assert_eq(&refused);
    let refused = load(None, &[], &[("--mqtt-listen", "mqtt.listen", "y")]).expect_err("refused");
    expect!["--mqtt-listen: mqtt.listen: `y` is not an address; write it like `127.0.0.1:1883`, or `off`"]
        .assert_eq(&refused);
}

#[test]
fn a_file_that_is_not_toml_or_not_there() {
    let refused = error_of("[mqtt\nlisten = 1");
    assert!(
        refused.starts_with("tarn.toml: not TOML: ") && refused.contains("line 1"),
        "{refused}"
    );
    let sources = Sources {
        file: Some("/nonexistent/tarn.toml".into()),
        ..Sources::default()
    };
    let refused = Settings::load(sources).expect_err("refused").to_string();
    assert!(
        refused.starts_with("/nonexistent/tarn.toml: can't be read: "),
        "{refused}"
    );
}

#[test]
fn settings_that_contradict_each_other() {
    for (file, expected) in [
        (
            "[mqtt]\nlisten = \"0.0.0.0:1883\"",
            expect![
                "tarn.toml: mqtt.listen: 0.0.0.0:1883 can be reached from other machines and no authentication is configured; bind to 127.0.0.1, or, if you mean it, add the line `allow_anonymous = true` at the top of tarn.toml"
            ],
        ),
        (
            "[mqtt]\nlisten = \"127.0.0.1:4222\"",
            expect![
                "tarn.toml: mqtt.listen: 127.0.0.1:4222 is the address of nats.listen too; give each its own port"
            ],
        ),
        (
            "[nats]\nlisten = \"off\"",
            expect!["tarn.toml: nats.listen: can't be off: the processor reads over it; set an address"],
        ),
        (
            "stream = []",
            expect!["tarn.toml: stream: is empty; name at least one stream to read from"],
        ),
        (
            "[[stream]]\nname = \"A\"\nsubjects = [\"a.>\"]\n[[stream]]\nname = \"B\"\nsubjects = [\"a.b\"]",
            expect!["tarn.toml: stream[1].subjects: `a.b` overlaps with what stream A captures"],
        ),
        (
            "[[stream]]\nname = \"A\"\nsubjects = [\"a..b\"]",
            expect![
                "tarn.toml: stream[0].subjects: `a..b` is not a subject; write it like `sensors.>` or `sensors.*.room1`"
            ],
        ),
        (
            "[[window]]\ntable = \"readings\"\nevery = \"1m\"",
            expect!["tarn.toml: window[0].table: `readings` is taken; choose another name"],
        ),
        (
            "[[window]]\ntable = \"w\"\nevery = \"7m\"",
            expect![
                "tarn.toml: window[0].every: must be whole seconds that divide a day evenly, such as 1m or 6h"
            ],
        ),
        (
            "[lake]\nwarehouse = \"s3://b/p\"",
            expect!["tarn.toml: lake.warehouse: must be a folder: object stores are not supported"],
        ),
    ] {
        expected.assert_eq(&error_of(file));
    }
    assert!(
        load(
            Some("allow_anonymous = true\n[mqtt]\nlisten = \"0.0.0.0:1883\""),
            &[],
            &[]
        )
        .is_ok()
    );
}

#[test]
fn secrets_are_hidden() {
    let settings = load(
        None,
        &[("TARN_NATS__URL", "nats://anna:s3cret@cluster:4222")],
        &[],
    )
    .expect("valid");
    assert!(settings.to_toml().contains("nats://anna:hidden@cluster:4222"));
    assert!(!format!("{settings:?}").contains("s3cret"));
}

#[test]
fn every_known_key_is_accepted_and_every_field_is_known() {
    let mut full = Settings::default();
    full.nats.url = Some("nats://n:4222".parse().expect("url"));
    full.lake.warehouse = Some("w".into());
    for stream in &mut full.stream {
        stream.max_bytes = Some(Size::mebibytes(1));
        stream.max_messages = Some(1);
        stream.duplicate_window = Some(Span::seconds(120));
    }
    let tree: toml::Value = toml::from_str(&full.to_toml()).expect("TOML");
    let mut fields = Vec::new();
    leaves(&tree, String::new(), &mut fields);
    fields.sort();
    let mut known: Vec<_> = KEYS.iter().map(|(key, _)| (*key).to_owned()).collect();
    known.sort();
    assert_eq!(fields, known);
}

fn leaves(value: &toml::Value, path: String, out: &mut Vec<String>) {
    match value {
        toml::Value::Table(table) => {
            for (name, inner) in table {
                let path = if path.is_empty() {
                    name.clone()
                } else {
                    format!("{path}.{name}")
                };
                leaves(inner, path, out);
            }
        }
        toml::Value::Array(list) if list.iter().any(toml::Value::is_table) => {
            list.iter()
                .for_each(|inner| leaves(inner, format!("{path}[]"), out));
        }
        _ => out.push(path),
    }
}

#[test]
fn the_reference_names_every_key_and_shows_the_defaults() {
    let page = include_str!("../../../docs/src/configuration.md");
    for (key, about) in KEYS {
        let shown = key.replace("[]", "");
        assert!(
            page.contains(&format!("`{shown}`")),
            "docs/src/configuration.md does not name {shown} ({about})"
        );
    }
    assert!(
        page.contains(&Settings::default().to_toml()),
        "docs/src/configuration.md shows other defaults"
    );
}

proptest! {
    #[test]
    fn no_input_makes_loading_panic(text in "[a-z\\[\\]=\".0-9\n >]{0,80}", value in "\\PC{0,20}") {
        let environment = [("TARN_MQTT__LISTEN", value.as_str()), ("TARN_STREAM", value.as_str())];
        drop(load(Some(&text), &environment, &[]));
    }

    #[test]
    fn what_the_file_sets_is_what_is_read(rows in 1u64..u64::MAX / 2, mib in 1u64..100_000, secs in 1u64..3600, port in 1u16..) {
        let file = format!(
            "[lake]\ncommit_rows = {rows}\ncommit_bytes = \"{mib}MiB\"\ncommit_interval = \"{secs}s\"\n[monitor]\nlisten = \"[::1]:{port}\""
        );
        let settings = load(Some(&file), &[], &[]).expect("valid");
        prop_assert_eq!(settings.lake.commit_rows, rows);
        prop_assert_eq!(settings.lake.commit_bytes, Size::mebibytes(mib));
        prop_assert_eq!(settings.lake.commit_interval, Span::seconds(secs));
        prop_assert_eq!(settings.monitor.listen, Listen::At { host: "::1".to_owned(), port });
    }
}
