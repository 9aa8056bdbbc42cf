use std::path::Path;
use std::time::Duration;

use super::{World, options, problems, try_options};
use crate::conf::{load, read};
use crate::options::{
    ConnectionType, Credential, ExportKind, HandshakeFirst, HostPort, ImportKind, ResponsePermission,
    TlsVersion,
};

const NKEY: &str = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";

fn at(host: &str, port: u16) -> HostPort {
    HostPort {
        host: host.to_owned(),
        port,
    }
}

#[test]
fn addresses_in_all_forms() {
    for (text, listen) in [
        ("listen: 4333", at("", 4333)),
        ("listen: 127.0.0.1:-1", at("127.0.0.1", 0)),
        ("listen: \"[::1]:4222\"", at("::1", 4222)),
        ("host: localhost\nport: 4555", at("localhost", 4555)),
        ("port: -1", at("", 0)),
        ("port: 0", at("", 4222)),
        ("net: \"::\"", at("::", 4222)),
    ] {
        assert_eq!(options(text).listen, listen, "{text}");
    }
    assert_eq!(options("http: 8222").monitor.http, Some(at("", 8222)));
    assert_eq!(
        options("http: localhost:-1").monitor.http,
        Some(at("localhost", 0))
    );
    assert_eq!(options("http_port: 0").monitor.http, None);
    assert_eq!(
        options("https: 0.0.0.0:8443\nhttp_base_path: a//b/")
            .monitor
            .base_path,
        "/a/b"
    );
    assert!(problems("listen: nowhere").contains("could not parse address string \"nowhere\""));
    assert!(problems("listen: h:x").contains("could not parse port \"x\""));
    assert!(problems("port: 99999").contains("is not a port"));
}

#[test]
fn limits_and_times() {
    let options = options(
        "max_payload: 8MB\nmax_control_line: 8k\nmax_pending: 10MB\nmax_connections: 100\nmax_subs: 0\n\
         ping_interval: \"20s\"\nping_max: 3\nwrite_deadline: 5s\nlame_duck_duration: 1h\nlame_duck_grace_period: 2s\n\
         max_subscription_tokens: 8",
    );
    let limits = &options.limits;
    assert_eq!(limits.max_payload_bytes, 8 << 20);
    assert_eq!(limits.max_control_line_bytes, 8000);
    assert_eq!(limits.max_pending_bytes, 10 << 20);
    assert_eq!((limits.max_connections, limits.max_subscriptions), (100, 0));
    assert_eq!((limits.ping_max, limits.max_subscription_tokens), (3, 8));
    assert_eq!(limits.ping_interval, Duration::from_secs(20));
    assert_eq!(limits.write_deadline, Duration::from_secs(5));
    assert_eq!(options.lame_duck.duration, Duration::from_secs(3600));
    assert_eq!(options.lame_duck.grace_period, Duration::from_secs(2));
    for (text, problem) in [
        ("max_payload: 3G", "max_payload value is too big"),
        ("max_sub_tokens: 300", "max_sub_tokens value is too big"),
        (
            "lame_duck_duration: 10s",
            "invalid lame_duck_duration of 10s, minimum is 30 seconds",
        ),
        ("lame_duck_grace_period: -1s", "lame_duck_grace_period"),
        (
            "ping_interval: \"5 parsecs\"",
            "error parsing ping_interval: time: unknown unit",
        ),
        ("write_deadline: \"5\"", "time: missing unit in duration \"5\""),
    ] {
        assert!(problems(text).contains(problem), "{text}: {}", problems(text));
    }
}

#[test]
fn old_durations_in_seconds_are_taken_with_a_warning() {
    let options = options("ping_interval: 7");
    assert_eq!(options.limits.ping_interval, Duration::from_secs(7));
    assert_eq!(
        options.warnings,
        ["nats.conf:1:1: ping_interval should be converted to a duration"]
    );
}

#[test]
fn unknown_fields_are_errors_unless_they_are_variables() {
    assert_eq!(
        problems("a: 1\nport: 1\nbogus: 3"),
        "nats.conf:1:1: unknown field \"a\"\nnats.conf:3:1: unknown field \"bogus\""
    );
    assert_eq!(options("PORT: 4333\nport: $PORT").listen.port, 4333);
    assert_eq!(
        problems("jetstream { stor_dir: x }"),
        "nats.conf:1:13: unknown field \"stor_dir\""
    );
    assert_eq!(
        problems("port: high"),
        "nats.conf:1:1: expected \"port\" to be a number, got string"
    );
}

#[test]
fn a_file_for_jetstream_and_monitoring() {
    let options =
        options("jetstream { store_dir: \"/data/js\", max_mem: 512M, max_file: 4G }\nhttp_port: 8222");
    assert!(options.jetstream.enabled);
    assert_eq!(
        options.jetstream.store_dir.as_deref(),
        Some(Path::new("/data/js"))
    );
    // A suffix without B is decimal, as in nats-server; as text it is binary.
    assert_eq!(options.jetstream.max_memory_bytes, Some(512_000_000));
    assert_eq!(options.jetstream.max_file_bytes, Some(4_000_000_000));
    assert_eq!(options.monitor.http, Some(at("", 8222)));
    let text = super::options("jetstream: { max_mem_store: \"512M\", max_file_store: -1, domain: hub }");
    assert_eq!(text.jetstream.max_memory_bytes, Some(512 << 20));
    assert_eq!(text.jetstream.max_file_bytes, None);
    assert_eq!(text.jetstream.domain.as_deref(), Some("hub"));
    assert!(super::options("jetstream: enabled").jetstream.enabled);
    assert!(!super::options("jetstream: false").jetstream.enabled);
    assert!(problems("store_dir: a\njetstream { store_dir: b }").contains("Duplicate 'store_dir'"));
    assert!(problems("jetstream { key: x }").contains("encrypt the disk"));
}

#[test]
fn accounts_with_a_system_account() {
    let options = options(
        "accounts {\n  $SYS { users: [ { user: sys, password: sys } ] }\n  NOETL {\n    jetstream: enabled\n    \
         users: [ { user: noetl, password: noetl } ]\n  }\n}\nsystem_account: \"$SYS\"\njetstream {}\n",
    );
    let auth = &options.auth;
    assert_eq!(auth.system_account.as_deref(), Some("$SYS"));
    let names: Vec<&str> = auth
        .accounts
        .iter()
        .map(|account| account.name.as_str())
        .collect();
    assert_eq!(names, ["$SYS", "NOETL"]);
    assert!(auth.accounts[0].jetstream.is_none() && auth.accounts[1].jetstream.is_some());
    assert_eq!(auth.users[1].account, "NOETL");
    assert!(
        matches!(&auth.users[1].credential, Credential::Password { user, password } if user == "noetl" && password.0 == "noetl")
    );
    assert_eq!(
        format!("{:?}", auth.users[1].credential),
        "Password { user: \"noetl\", password: [hidden] }"
    );
}

#[test]
fn exports_imports_and_mappings() {
    let options = options(
        "accounts {\n A: {\n  exports: [ {stream: \"a.>\", accounts: [B]}, {service: \"q.*\", response: stream, \
         threshold: 5s, latency: {subject: lat, sampling: 50%}} ]\n  mappings: { foo: bar, \"x.*\": [ {dest: \"y.$1\", \
         weight: 40%}, {destination: z, weight: 60} ] }\n  jetstream: { max_mem: 1M, max_file: 2M, max_streams: 3, \
         max_consumers: -1, max_bytes_required: true }\n  limits: { max_conn: 5 }\n }\n B: {\n  imports: [ {stream: {account: A, subject: \"a.>\"}, \
         prefix: p}, {service: {account: A, subject: \"q.*\"}, to: \"ask.*\"} ]\n }\n}",
    );
    let [a, b] = options.auth.accounts.as_slice() else {
        panic!("two accounts")
    };
    assert_eq!(a.exports[0].accounts.as_deref(), Some(&["B".to_owned()][..]));
    assert!(
        matches!(&a.exports[1].kind, ExportKind::Service { threshold: Some(time), latency: Some(_), .. } if time.as_secs() == 5)
    );
    assert_eq!(a.mappings[1].destinations[0].weight, 40);
    let tier = a.jetstream.unwrap().tier;
    assert_eq!(
        (tier.max_streams, tier.max_consumers, tier.max_bytes_required),
        (Some(3), None, true)
    );
    assert_eq!(a.limits.max_connections, Some(5));
    assert!(matches!(&b.imports[0].kind, ImportKind::Stream { prefix: Some(prefix), .. } if prefix == "p"));
    assert!(matches!(&b.imports[1].kind, ImportKind::Service { to, .. } if to == "ask.*"));
    for (text, problem) in [
        (
            "accounts { A { exports: [{stream: x, accounts: [C]}] } }",
            "\"C\" account not defined for stream export",
        ),
        (
            "accounts { A { imports: [{service: {account: C, subject: x}}] } }",
            "\"C\" account not defined for service import",
        ),
        (
            "accounts { A { imports: [{stream: {account: A}}] } }",
            "Expect an account name and a subject",
        ),
        ("accounts { $G {} }", "\"$G\" is a Reserved Account"),
        ("accounts: [A, A]", "Duplicate Account Entry: A"),
        (
            "accounts { A { users: [{user: a}] }, B { users: [{user: a}] } }",
            "Duplicate user \"a\" detected",
        ),
        (
            "accounts { A { mappings: { x: [{dest: y, weight: 70}, {dest: z, weight: 70}] } } }",
            "total weight",
        ),
        (
            "accounts { A { exports: [{stream: x, response: stream}] } }",
            "Detected response directive on non-service",
        ),
    ] {
        assert!(problems(text).contains(problem), "{text}: {}", problems(text));
    }
}

#[test]
fn users_and_permissions() {
    let text = format!(
        "authorization {{\n users: [ {{nkey: {NKEY}}}, {{user: a, password: b, permissions: {{ publish: [x, \"y.>\"], \
         subscribe: {{ allow: \"q workers\", deny: [z] }}, allow_responses: {{ max: 5, expires: 1m30s }} }}, \
         allowed_connection_types: [standard, WEBSOCKET] }}, {{user: r, password: s, permissions: {{allow_responses: true}} }} ]\n \
         default_permissions: {{ publish: \"default.>\" }}\n timeout: 0.5\n}}\nno_auth_user: a"
    );
    let options = options(&text);
    let auth = &options.auth;
    assert_eq!(auth.timeout, Some(Duration::from_millis(500)));
    let [nkey, a, r] = auth.users.as_slice() else {
        panic!("three users")
    };
    assert_eq!(nkey.credential, Credential::Nkey(NKEY.to_owned()));
    let publish = |permissions: &crate::options::Permissions| permissions.publish.clone().unwrap().allow;
    assert_eq!(
        publish(nkey.permissions.as_ref().unwrap()),
        Some(vec!["default.>".to_owned()])
    );
    let own = a.permissions.as_ref().unwrap();
    assert_eq!(publish(own), Some(vec!["x".to_owned(), "y.>".to_owned()]));
    assert_eq!(own.subscribe.as_ref().unwrap().deny, ["z"]);
    let responses = ResponsePermission {
        max_msgs: Some(5),
        expires: Some(Duration::from_secs(90)),
    };
    assert_eq!(own.responses, Some(responses));
    assert!(a.connection_types.contains(&ConnectionType::Websocket));
    // Answers alone: nothing else may be published.
    assert_eq!(publish(r.permissions.as_ref().unwrap()), Some(vec![]));
    for (text, problem) in [
        (
            "authorization { user: a, token: t }",
            "Cannot have a user/pass and token",
        ),
        (
            "authorization { user: a, users: [] }",
            "Can not have a single user/pass and a users array",
        ),
        (
            "authorization { users: [{password: x}] }",
            "User entry requires a user",
        ),
        (
            "authorization { users: [{nkey: UABC}] }",
            "Not a valid public nkey for a user",
        ),
        (
            "authorization { users: [{user: a, permissions: {publish: \"x..y\"}}] }",
            "subject \"x..y\" is not a valid subject",
        ),
        (
            "authorization { users: [{user: a, permissions: {publisch: x}}] }",
            "Unknown field \"publisch\" parsing permissions",
        ),
        (
            "no_auth_user: a",
            "no_auth_user: \"a\" present, but users/nkeys are not defined",
        ),
        (
            "system_account: S",
            "error resolving system account: account missing",
        ),
        (
            "authorization { auth_callout { issuer: x } }",
            "Expected callout user to be a valid public account nkey, got \"x\"",
        ),
        (
            "authorization { proxy_required: true }",
            "proxy_required can't be checked here",
        ),
    ] {
        assert!(problems(text).contains(problem), "{text}: {}", problems(text));
    }
}

#[test]
fn operators() {
    let world = World::of(
        &[(
            "op.jwt",
            "-----BEGIN NATS OPERATOR JWT-----\neyJa.eyJb.c\n------END NATS OPERATOR JWT------\n",
        )],
        &[],
    );
    let text = "operator: op.jwt\nresolver: MEMORY\nsystem_account: ADX\nresolver_preload: { ADX: eyJx.y.z }";
    let options = read(Path::new("n"), text, &world).unwrap();
    let operator = options.auth.operator.unwrap();
    assert_eq!(operator.operators, ["eyJa.eyJb.c"]);
    assert!(operator.has_resolver);
    assert_eq!(operator.preload["ADX"], "eyJx.y.z");
    for (resolver, problem) in [
        (
            "URL(http://localhost:9090/jwt/)",
            "a resolver elsewhere is not asked: put",
        ),
        (
            "{ type: full, dir: jwt }",
            "a resolver of a folder is not read: put",
        ),
        (
            "{ type: cache, dir: jwt, ttl: \"1h\" }",
            "a resolver of a folder is not read: put",
        ),
        ("{ dir: jwt }", "type should be one of"),
        ("nowhere", "should be MEM or"),
    ] {
        let found = problems(&format!("resolver: {resolver}"));
        assert!(found.contains(problem), "{resolver}: {found}");
        assert_eq!(found.lines().count(), 1, "{found}");
    }
    assert!(
        problems("trusted_keys: [UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4]")
            .contains("operator nkey")
    );
    assert!(problems("resolver_preload: { A: nonsense }").contains("invalid account JWT"));
    assert!(problems("operator: nowhere.jwt").contains("error parsing operator JWT: open nowhere.jwt"));
    assert!(problems("trusted_keys: [OABC]").contains("required to be a valid public operator nkey"));
}

#[test]
fn tls_blocks() {
    let options = options(
        "tls { cert_file: c.pem, key_file: k.pem, ca_file: ca.pem, verify_and_map: true, timeout: 3.5, \
         handshake_first: 300ms, min_version: \"1.3\" }\nallow_non_tls: true",
    );
    let tls = options.tls.unwrap();
    assert!(tls.verify && tls.verify_and_map && options.allow_non_tls);
    assert_eq!(tls.certs[0].cert_file, Path::new("c.pem"));
    assert_eq!(tls.timeout, Duration::from_millis(3500));
    assert_eq!(
        tls.handshake_first,
        HandshakeFirst::Within(Duration::from_millis(300))
    );
    assert_eq!(tls.min_version, TlsVersion::V1_3);
    for (text, problem) in [
        ("tls { cert_file: a }", "missing 'key_file' in TLS configuration"),
        ("tls {}", "no certificate in the TLS configuration"),
        (
            "tls { certfile: a }",
            "error parsing tls config, unknown field \"certfile\"",
        ),
        (
            "tls { cert_file: a, key_file: b, min_version: \"1.1\" }",
            "unsupported TLS version",
        ),
        (
            "tls { cert_file: a, key_file: b, pinned_certs: [xyz] }",
            "'pinned_certs' key xyz",
        ),
        (
            "tls { cert_store: WindowsLocalMachine }",
            "there is no certificate store here",
        ),
        (
            "tls { cert_file: a, key_file: b, ocsp_peer: true }",
            "revocation is not asked for here",
        ),
    ] {
        assert!(problems(text).contains(problem), "{text}: {}", problems(text));
    }
}

#[test]
fn websocket_blocks() {
    let options = options(
        "websocket { listen: \"127.0.0.1:-1\", no_tls: true, compression: true, same_origin: true, allowed_origins: \
         [\"http://a\"], handshake_timeout: 3s, jwt_cookie: jwt, headers: { X-A: b } }",
    );
    assert!(options.warnings.is_empty());
    let ws = options.websocket.unwrap();
    assert_eq!(ws.listen, at("127.0.0.1", 0));
    assert!(ws.no_tls && ws.compression && ws.same_origin);
    assert_eq!(ws.headers["X-A"], "b");
    assert_eq!(super::options("websocket { no_tls: true }").websocket, None);
    assert!(problems("websocket { port: 443 }").contains("websocket requires TLS configuration"));
}

#[test]
fn what_needs_other_servers_is_refused_and_what_only_listens_is_not() {
    let listening =
        options("cluster { name: c, listen: 0.0.0.0:6222, routes: [] }\nleafnodes { port: 7422 }");
    assert_eq!(listening.warnings.len(), 2);
    for text in [
        "cluster { name: c, port: 6222, routes: [nats://other:6222] }",
        "gateway { name: g, port: 7222 }",
        "leafnodes { remotes: [{url: nats://hub:7422}] }",
    ] {
        assert!(
            problems(text).contains("for a cluster run nats-server on several machines"),
            "{text}"
        );
    }
    assert!(problems("mqtt { port: 1883 }").contains("tarn serve"));
    assert!(problems("proxy_protocol: true").contains("let the proxy pass TCP through"));
}

#[test]
fn a_file_that_is_not_there() {
    let error = load(Path::new("/nowhere.conf"), &World::default()).unwrap_err();
    assert_eq!(error.to_string(), "open /nowhere.conf: no such file or directory");
    assert_eq!(
        options("").warnings,
        ["nats.conf: config has no values or is empty"]
    );
    assert!(try_options("syslog: true").unwrap().warnings[0].contains("syslog is not written to"));
}
