//! The configuration file and the flags together: the flag wins.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use tarn_broker::conf::{self, FILE_BYTES_MAX, Sources};
use tarn_broker::options::{CertPair, HostPort, Options, Secret};

use super::flags::{Flag, Flags};

/// Files and the environment of this process.
pub(super) struct Machine;

impl Sources for Machine {
    fn file(&self, path: &Path) -> io::Result<String> {
        let size = std::fs::metadata(path)?.len();
        if size > FILE_BYTES_MAX as u64 {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        std::fs::read_to_string(path)
    }

    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }
}

/// Everything that file and flags say. Errs with what is wrong, a line each.
pub(super) fn options(flags: &Flags, sources: &dyn Sources) -> Result<Options, String> {
    let mut options = match flags.text(Flag::Config) {
        Some(file) => conf::load(Path::new(file), sources).map_err(|err| err.to_string())?,
        None => Options::default(),
    };
    addresses(flags, &mut options)?;
    logging(flags, &mut options)?;
    tls(flags, &mut options)?;
    authorization(flags, &mut options)?;
    if let Some(enabled) = flags.truth(Flag::JetStream) {
        options.jetstream.enabled = enabled;
    }
    if let Some(dir) = flags.text(Flag::StoreDir) {
        options.jetstream.store_dir = Some(PathBuf::from(dir));
    }
    if flags.text(Flag::Routes).is_some_and(|routes| !routes.is_empty()) {
        return Err("--routes: this is one server and has no routes; for a cluster run nats-server on several machines, \
                    and point `tarn serve` at it with [nats] url"
            .to_owned());
    }
    if flags.text(Flag::Cluster).is_some() {
        let warning = "nothing listens for cluster routes; for a cluster run nats-server on several machines";
        options.warnings.push(warning.to_owned());
    }
    complete(flags, &mut options)?;
    Ok(options)
}

fn addresses(flags: &Flags, options: &mut Options) -> Result<(), String> {
    if let Some(host) = flags.text(Flag::Addr) {
        options.listen.host = host.trim_matches(['[', ']']).to_owned();
    }
    match flags.port(Flag::Port)? {
        Some(0) => options.listen.port = HostPort::default().port,
        Some(port) => options.listen.port = u16::try_from(port).unwrap_or(0),
        None => {}
    }
    for (flag, at) in [
        (Flag::HttpPort, &mut options.monitor.http),
        (Flag::HttpsPort, &mut options.monitor.https),
    ] {
        if let Some(port) = flags.port(flag)? {
            let host = at.take().map(|at| at.host).unwrap_or_default();
            // -m 0 is an explicit wish for a free port in Tarn, and none in nats-server: none.
            *at = (port != 0).then(|| HostPort {
                host,
                port: u16::try_from(port).unwrap_or(0),
            });
        }
    }
    if let Some(name) = flags.text(Flag::Name) {
        options.server_name = Some(name.to_owned());
    }
    if let Some(host) = flags.text(Flag::ClientAdvertise) {
        options.client_advertise = Some(host.to_owned());
    }
    if let Some(file) = flags.text(Flag::Pid) {
        options.process.pid_file = Some(PathBuf::from(file));
    }
    if let Some(dir) = flags.text(Flag::PortsFileDir) {
        options.process.ports_file_dir = Some(PathBuf::from(dir));
    }
    Ok(())
}

fn logging(flags: &Flags, options: &mut Options) -> Result<(), String> {
    let log = &mut options.log;
    if let Some(file) = flags.text(Flag::Log) {
        log.file = Some(PathBuf::from(file));
    }
    if let Some(limit) = flags.number(Flag::LogSizeLimit)? {
        log.size_limit_bytes = u64::try_from(limit).unwrap_or(0);
    }
    for (flag, into) in [
        (Flag::LogTime, &mut log.time),
        (Flag::LogTimeUtc, &mut log.time_utc),
        (Flag::Debug, &mut log.debug),
        (Flag::Trace, &mut log.trace),
    ] {
        if let Some(truth) = flags.truth(flag) {
            *into = truth;
        }
    }
    if let Some(truth) = flags.truth(Flag::DebugTrace) {
        (log.debug, log.trace) = (truth, truth);
    }
    if flags.text(Flag::Syslog).is_some() {
        let warning = "syslog is not written to; lines go to the log file or to standard error";
        options.warnings.push(warning.to_owned());
    }
    Ok(())
}

fn tls(flags: &Flags, options: &mut Options) -> Result<(), String> {
    let verify = flags.has(Flag::TlsVerify);
    let files = [Flag::TlsCert, Flag::TlsKey, Flag::TlsCa].map(|flag| flags.text(flag).map(PathBuf::from));
    let [cert_file, key_file, ca_file] = files;
    let is_asked = verify || flags.has(Flag::Tls);
    if !is_asked && cert_file.is_none() && key_file.is_none() {
        return Ok(());
    }
    let mut tls = options.tls.take().unwrap_or_default();
    match (cert_file, key_file) {
        (Some(cert_file), Some(key_file)) => tls.certs = vec![CertPair { cert_file, key_file }],
        (None, None) if !tls.certs.is_empty() => {}
        (None, _) => return Err("TLS Server certificate must be present and valid; set --tlscert".to_owned()),
        (_, None) => return Err("TLS Server private key must be present and valid; set --tlskey".to_owned()),
    }
    tls.verify |= verify;
    tls.ca_file = ca_file.or(tls.ca_file);
    options.tls = Some(tls);
    Ok(())
}

fn authorization(flags: &Flags, options: &mut Options) -> Result<(), String> {
    let auth = &mut options.auth;
    let pass = flags.text(Flag::Pass).unwrap_or_default();
    let user = flags.text(Flag::User).filter(|user| !user.is_empty());
    let token = flags.text(Flag::Auth).filter(|token| !token.is_empty());
    if user.is_some() && token.is_some() {
        return Err("Cannot have a user/pass and token; give --user and --pass, or --auth".to_owned());
    }
    if (user.is_some() || token.is_some()) && !auth.users.is_empty() {
        return Err("Can not have a single user/pass or token and a users array".to_owned());
    }
    if let Some(user) = user {
        auth.single_user = Some((user.to_owned(), Secret(pass.to_owned())));
        auth.token = None;
    }
    if let Some(token) = token {
        auth.token = Some(Secret(token.to_owned()));
        auth.single_user = None;
    }
    Ok(())
}

/// Gives addresses without a host one: without authentication only this machine is let in, unless it is said otherwise.
fn complete(flags: &Flags, options: &mut Options) -> Result<(), String> {
    let auth = &options.auth;
    let has_authentication = auth.single_user.is_some()
        || auth.token.is_some()
        || !auth.users.is_empty()
        || auth.operator.is_some()
        || auth.callout.is_some()
        || options.tls.as_ref().is_some_and(|tls| tls.verify);
    let is_open = has_authentication || flags.has(Flag::AllowAnonymous);
    let default = if is_open { "0.0.0.0" } else { "127.0.0.1" };
    let client_host = match options.listen.host.as_str() {
        "" => default.to_owned(),
        host => host.to_owned(),
    };
    let websocket = options.websocket.as_mut().map(|ws| &mut ws.listen);
    let all = [Some(&mut options.listen), websocket]
        .into_iter()
        .chain([options.monitor.http.as_mut(), options.monitor.https.as_mut()])
        .flatten();
    for at in all {
        if at.host.is_empty() {
            at.host.clone_from(&client_host);
        }
        if !is_open && !is_loopback(&at.host) {
            return Err(format!(
                "{at} can be reached from other machines and no authentication is configured; \
                 leave the host out, or add an `authorization` block, or, if you mean it, --allow-anonymous"
            ));
        }
    }
    Ok(())
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    /// One file and no environment.
    struct File(&'static str);

    impl Sources for File {
        fn file(&self, _: &Path) -> io::Result<String> {
            Ok(self.0.to_owned())
        }

        fn variable(&self, _: &str) -> Option<String> {
            None
        }
    }

    fn merged(line: &str, file: &'static str) -> Result<Options, String> {
        let flags = Flags::parse(line.split_whitespace().map(OsString::from))?;
        options(&flags, &File(file))
    }

    #[test]
    fn flags_win_over_the_file() {
        let file = "port: 4333\nserver_name: file\njetstream { store_dir: /file }\nhttp: 8000\nauthorization { user: a, password: b }";
        let options = merged(
            "-c x -p -1 -n flag -sd /flag -m 9000 --user c --pass d -a 127.0.0.1 -l /log",
            file,
        )
        .unwrap();
        assert_eq!(
            (options.listen.host.as_str(), options.listen.port),
            ("127.0.0.1", 0)
        );
        assert_eq!(options.server_name.as_deref(), Some("flag"));
        assert!(options.jetstream.enabled);
        assert_eq!(options.jetstream.store_dir.as_deref(), Some(Path::new("/flag")));
        assert_eq!(options.monitor.http.map(|at| at.port), Some(9000));
        assert_eq!(
            options.auth.single_user,
            Some(("c".to_owned(), Secret("d".to_owned())))
        );
        let plain = merged("-c x", file).unwrap();
        assert_eq!((plain.listen.host.as_str(), plain.listen.port), ("0.0.0.0", 4333));
    }

    #[test]
    fn without_authentication_only_this_machine_is_let_in() {
        assert_eq!(merged("-m 1", "").unwrap().listen.host, "127.0.0.1");
        assert_eq!(merged("--allow-anonymous", "").unwrap().listen.host, "0.0.0.0");
        assert_eq!(merged("--auth t", "").unwrap().listen.host, "0.0.0.0");
        for (line, file) in [
            ("-a 0.0.0.0", ""),
            ("-c x", "http: \"0.0.0.0:8222\""),
            ("-c x", "host: \"::\""),
        ] {
            let refused = merged(line, file).expect_err("refused");
            assert!(
                refused.contains("no authentication is configured") && refused.contains("--allow-anonymous")
            );
        }
        assert!(merged("-a [::1]", "").is_ok());
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        for (line, said) in [
            ("--user a --pass b --auth c", "Cannot have a user/pass and token"),
            ("--tls --tlskey k", "set --tlscert"),
            ("--tls --tlscert c", "set --tlskey"),
            ("--routes nats://x:6222", "for a cluster run nats-server"),
        ] {
            let refused = merged(line, "").expect_err("refused");
            assert!(refused.contains(said), "{refused}");
        }
        assert_eq!(
            merged("-c x", "bogus: 1").expect_err("refused"),
            "x:1:1: unknown field \"bogus\""
        );
    }
}
