//! nats-server's flags: one dash or two, `=` or a space before the value. Source: nats-server 2.15, `--help`.

use std::ffi::OsString;

/// What `tarn broker --help` says.
pub(in crate::cli) const HELP: &str = "\
The NATS and JetStream broker alone, with nats-server's flags and configuration file

Usage: tarn broker [OPTIONS]

Server:
  -c, --config FILE            Configuration file, as nats-server's
  -t                           Check the configuration and exit
  -a, --addr, --net HOST       Host to bind to [env: TARN_BROKER__ADDR]
  -p, --port PORT              Port for clients; -1 for a free one [env: TARN_BROKER__PORT] [default: 4222]
  -m, --http_port PORT         Port for monitoring [env: TARN_BROKER__HTTP_PORT] [default: none]
  -ms, --https_port PORT       Port for monitoring over TLS
  -n, --name NAME              Name of the server [env: TARN_BROKER__NAME]
  -P, --pid FILE               File for the process id
      --ports_file_dir DIR     Folder for a file with all ports
      --client_advertise HOST  What clients are told to connect to
  -sl, --signal SIGNAL[=PID]   Send ldm, stop, quit, term, reopen or reload; PID may be a file
      --allow-anonymous        Listen on a non-loopback address without authentication [env: TARN_ALLOW_ANONYMOUS]

JetStream:
  -js, --jetstream             Enable it
  -sd, --store_dir DIR         Folder of the streams [env: TARN_BROKER__STORE_DIR] [default: tarn-data/broker]
      --verify-store           Read everything in that folder, say what is wrong with it, change nothing, and exit

Authorization:
      --user USER --pass PASS  The one user
      --auth TOKEN             The one token

TLS:
      --tls --tlscert FILE --tlskey FILE
      --tlsverify --tlscacert FILE

Logging:
  -l, --log FILE               File for log lines instead of standard error
  -D, --debug; -V, --trace; -DV
  -T, --logtime=false          Lines without a time; --logtime_utc for UTC
      --log_size_limit BYTES   Put the file aside when it is larger

  -v, --version; -h, --help
";

/// One of the flags, whatever it was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flag {
    Addr,
    AllowAnonymous,
    Auth,
    ClientAdvertise,
    Cluster,
    Config,
    Debug,
    DebugTrace,
    Help,
    HttpPort,
    HttpsPort,
    JetStream,
    Log,
    LogSizeLimit,
    LogTime,
    LogTimeUtc,
    Name,
    /// Known, and of no consequence here.
    Nothing,
    Pass,
    Pid,
    Port,
    PortsFileDir,
    Routes,
    Signal,
    StoreDir,
    Syslog,
    Test,
    Tls,
    TlsCa,
    TlsCert,
    TlsKey,
    TlsVerify,
    Trace,
    User,
    VerifyStore,
    Version,
}

use Flag::*;

/// Names, the flag, and whether it takes a value.
const FLAGS: &[(&[&str], Flag, bool)] = &[
    (&["h", "help"], Help, false),
    (&["v", "version"], Version, false),
    (&["t"], Test, false),
    (&["c", "config"], Config, true),
    (&["a", "addr", "net"], Addr, true),
    (&["p", "port"], Port, true),
    (&["m", "http_port"], HttpPort, true),
    (&["ms", "https_port"], HttpsPort, true),
    (&["n", "name", "server_name"], Name, true),
    (&["P", "pid"], Pid, true),
    (&["ports_file_dir"], PortsFileDir, true),
    (&["client_advertise"], ClientAdvertise, true),
    (&["sl", "signal"], Signal, true),
    (&["allow-anonymous", "allow_anonymous"], AllowAnonymous, false),
    (&["js", "jetstream"], JetStream, false),
    (&["sd", "store_dir", "store-dir"], StoreDir, true),
    (&["verify-store", "verify_store"], VerifyStore, false),
    (&["user"], User, true),
    (&["pass"], Pass, true),
    (&["auth"], Auth, true),
    (&["tls"], Tls, false),
    (&["tlsverify"], TlsVerify, false),
    (&["tlscert"], TlsCert, true),
    (&["tlskey"], TlsKey, true),
    (&["tlscacert"], TlsCa, true),
    (&["l", "log"], Log, true),
    (&["log_size_limit"], LogSizeLimit, true),
    (&["D", "debug"], Debug, false),
    (&["V", "VV", "trace"], Trace, false),
    (&["DV", "DVV"], DebugTrace, false),
    (&["T", "logtime"], LogTime, false),
    (&["logtime_utc"], LogTimeUtc, false),
    (&["s", "syslog"], Syslog, false),
    (&["r", "remote_syslog"], Syslog, true),
    (&["routes"], Routes, true),
    (&["cluster", "cluster_listen"], Cluster, true),
    (
        &["cluster_name", "cluster_advertise", "connect_retries"],
        Nothing,
        true,
    ),
    (&["max_traced_msg_len", "profile"], Nothing, true),
    (&["no_advertise"], Nothing, false),
];

/// The environment's names of flags.
const VARIABLES: [(&str, Flag); 6] = [
    ("TARN_BROKER__ADDR", Addr),
    ("TARN_BROKER__PORT", Port),
    ("TARN_BROKER__HTTP_PORT", HttpPort),
    ("TARN_BROKER__STORE_DIR", StoreDir),
    ("TARN_BROKER__NAME", Name),
    ("TARN_ALLOW_ANONYMOUS", AllowAnonymous),
];

/// Flags and their values in the order given; a flag without a value has `true` or `false`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Flags(Vec<(Flag, String)>);

impl Flags {
    /// What the environment says.
    pub(super) fn of_environment(variable: impl Fn(&str) -> Option<String>) -> Flags {
        let named = VARIABLES.iter().filter_map(|(name, flag)| {
            let value = variable(name).filter(|value| !value.is_empty())?;
            Some((*flag, value))
        });
        Flags(named.collect())
    }

    /// Reads the arguments behind `tarn broker`. Errs with what is wrong.
    pub(super) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Flags, String> {
        let mut flags = Vec::new();
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let text = utf8(argument)?;
            let bare = text.strip_prefix("--").or_else(|| text.strip_prefix('-'));
            let Some(bare) = bare.filter(|bare| !bare.is_empty()) else {
                flags.push((word(&text)?, "true".to_owned()));
                continue;
            };
            let (name, value) = match bare.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (bare, None),
            };
            let found = FLAGS.iter().find(|(names, ..)| names.contains(&name));
            let Some((_, flag, takes_value)) = found else {
                return Err(format!(
                    "flag provided but not defined: -{name}; see `tarn broker --help`"
                ));
            };
            let value = match value {
                Some(value) if *takes_value => value,
                Some(value) => truth(name, &value)?.to_string(),
                None if !takes_value => "true".to_owned(),
                None => match arguments.next() {
                    Some(value) => utf8(value)?,
                    None => {
                        return Err(format!(
                            "flag needs an argument: -{name}; see `tarn broker --help`"
                        ));
                    }
                },
            };
            flags.push((*flag, value));
        }
        Ok(Flags(flags))
    }

    /// The flag's value; the last one counts.
    pub(super) fn text(&self, flag: Flag) -> Option<&str> {
        let found = self.0.iter().rev().find(|(held, _)| *held == flag);
        found.map(|(_, value)| value.as_str())
    }

    /// Whether a flag without a value is set; none: it was not given.
    pub(super) fn truth(&self, flag: Flag) -> Option<bool> {
        self.text(flag).map(|value| matches!(value, "true" | "1"))
    }

    pub(super) fn has(&self, flag: Flag) -> bool {
        self.truth(flag) == Some(true)
    }

    /// A number.
    pub(super) fn number(&self, flag: Flag) -> Result<Option<i64>, String> {
        self.text(flag)
            .map(|value| {
                value
                    .parse()
                    .map_err(|_| format!("invalid value {value:?} for flag {flag:?}: it is a number"))
            })
            .transpose()
    }

    /// A port: -1 to 65535.
    pub(super) fn port(&self, flag: Flag) -> Result<Option<i64>, String> {
        match self.number(flag)? {
            Some(port) if !(-1..=65535).contains(&port) => Err(format!(
                "invalid value {port} for flag {flag:?}: a port is -1 to 65535"
            )),
            port => Ok(port),
        }
    }

    /// These, and where they say nothing what `others` say.
    pub(super) fn or(self, others: Flags) -> Flags {
        let Flags(mut all) = others;
        all.extend(self.0);
        Flags(all)
    }
}

fn utf8(argument: OsString) -> Result<String, String> {
    argument
        .into_string()
        .map_err(|argument| format!("{} is not valid UTF-8", argument.display()))
}

/// An argument that is no flag.
fn word(text: &str) -> Result<Flag, String> {
    match text.to_ascii_lowercase().as_str() {
        "version" => Ok(Version),
        "help" => Ok(Help),
        _ => Err(format!("unrecognized command: {text}; see `tarn broker --help`")),
    }
}

fn truth(name: &str, value: &str) -> Result<bool, String> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("invalid boolean value {value:?} for -{name}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Flags, String> {
        Flags::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn one_dash_or_two_and_equals_or_space() {
        for line in [
            "-js -sd /x -p -1 -DV",
            "--js --sd=/x --port=-1 --DV",
            "-jetstream -store_dir /x -port -1 -DV=true",
        ] {
            let flags = parse(line).unwrap();
            assert!(flags.has(JetStream) && flags.has(DebugTrace), "{line}");
            assert_eq!(flags.text(StoreDir), Some("/x"), "{line}");
            assert_eq!(flags.port(Port), Ok(Some(-1)), "{line}");
        }
        assert_eq!(parse("-T=false").unwrap().truth(LogTime), Some(false));
        assert!(parse("version").unwrap().has(Version));
    }

    #[test]
    fn the_last_of_a_flag_counts_and_the_environment_least() {
        let environment = Flags::of_environment(|name| (name == "TARN_BROKER__PORT").then(|| "1".to_owned()));
        assert_eq!(environment.port(Port), Ok(Some(1)));
        let flags = parse("-p 2 -p 3").unwrap().or(environment);
        assert_eq!(flags.port(Port), Ok(Some(3)));
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (line, said) in [
            ("-x", "flag provided but not defined: -x"),
            ("-p", "flag needs an argument: -p"),
            ("-js=maybe", "invalid boolean value \"maybe\" for -js"),
            ("run", "unrecognized command: run"),
        ] {
            let refused = parse(line).expect_err("refused");
            assert!(refused.contains(said), "{refused}");
        }
        assert!(parse("-p x").unwrap().port(Port).is_err());
        assert!(parse("-p 70000").unwrap().port(Port).is_err());
    }

    #[test]
    fn help_names_the_flags() {
        for (names, flag, _) in FLAGS {
            let is_told = names.iter().any(|name| HELP.contains(&format!("-{name}")));
            let may_be_silent = matches!(flag, Nothing | Syslog | Routes | Cluster);
            assert!(is_told || may_be_silent, "{names:?}");
        }
        assert!(HELP.lines().count() < 60);
    }
}
