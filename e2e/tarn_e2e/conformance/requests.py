"""The requests of the differential run, in groups; each group starts with empty servers.

A step is (kind, subject, payload, headers): `api` waits for one answer, `many` for all that come, `pub` for a PubAck if the
subject is captured, `say` publishes without a reply, `wait` lets time pass.
"""

import json

SECOND = 1_000_000_000


def encode(payload) -> bytes:
    if isinstance(payload, bytes):
        return payload
    if isinstance(payload, str):
        return payload.encode()
    return json.dumps(payload).encode()


def api(subject: str, payload="", headers=None):
    return ("api", f"$JS.API.{subject}", encode(payload), headers)


def many(subject: str, payload="", headers=None):
    return ("many", f"$JS.API.{subject}", encode(payload), headers)


def pub(subject: str, payload="", headers=None):
    return ("pub", subject, encode(payload), headers)


def wait(seconds: float):
    return ("wait", seconds, b"", None)


def create(stream: str, /, **config):
    return api(f"STREAM.CREATE.{stream}", {"name": stream, **config})


def update(stream: str, /, **config):
    return api(f"STREAM.UPDATE.{stream}", {"name": stream, **config})


def consumer(stream: str, name: str, /, action=None, **config):
    request = {"stream_name": stream, "config": {"durable_name": name, "ack_policy": "explicit", **config}}
    if action:
        request["action"] = action
    return api(f"CONSUMER.CREATE.{stream}.{name}", request)


def ephemeral(stream: str, /, **config):
    return api(f"CONSUMER.CREATE.{stream}", {"stream_name": stream, "config": {"ack_policy": "explicit", **config}})


def nothing_there():
    subjects = [
        "INFO", "STREAM.NAMES", "STREAM.LIST", "STREAM.INFO.X", "STREAM.DELETE.X", "STREAM.PURGE.X", "STREAM.MSG.GET.X",
        "STREAM.MSG.DELETE.X", "STREAM.SNAPSHOT.X", "STREAM.RESTORE.X", "STREAM.UPDATE.X", "STREAM.CREATE.X",
        "CONSUMER.CREATE.X", "CONSUMER.CREATE.X.C", "CONSUMER.CREATE.X.C.f.g", "CONSUMER.DURABLE.CREATE.X.C",
        "CONSUMER.NAMES.X", "CONSUMER.LIST.X", "CONSUMER.INFO.X.C", "CONSUMER.DELETE.X.C", "CONSUMER.PAUSE.X.C",
        "CONSUMER.RESET.X.C", "CONSUMER.UNPIN.X.C", "STREAM.PEER.REMOVE.X", "STREAM.PEER.EVACUATE.X", "STREAM.CANCEL_MOVE.X",
        "STREAM.LEADER.STEPDOWN.X", "CONSUMER.LEADER.STEPDOWN.X.C", "META.LEADER.STEPDOWN", "SERVER.REMOVE", "SERVER.EVACUATE",
        "META.RESCUE", "ACCOUNT.PURGE.X", "ACCOUNT.STREAM.MOVE.X.Y", "ACCOUNT.STREAM.CANCEL_MOVE.X.Y",
        "CONSUMER.MSG.NEXT.X.C", "DIRECT.GET.X", "DIRECT.GET.X.a.b",
    ]
    for subject in subjects:
        for payload in ("", "{}", "{", "[]", '"x"', "null", '{"no_such_field":1}'):
            yield api(subject, payload)
    for subject in ("NOPE", "STREAM.NOPE", "STREAM.INFO", "STREAM.INFO.A.B", "STREAM.CREATE", "CONSUMER.INFO.X", "CONSUMER.NOPE.X", "STREAM", "INFO.X"):
        yield api(subject)


def stream_configs():
    good = [
        {}, {"subjects": ["a.*", "b.>"]}, {"retention": "interest"}, {"retention": "workqueue"}, {"storage": "memory"},
        {"discard": "new"}, {"discard": "new", "discard_new_per_subject": True, "max_msgs_per_subject": 3},
        {"max_age": 5 * SECOND}, {"max_age": 500 * SECOND, "duplicate_window": SECOND}, {"max_msgs": 5, "max_bytes": 1000, "max_msg_size": 100},
        {"max_msgs": -5, "max_bytes": -7, "max_msg_size": -9, "max_consumers": -3, "max_msgs_per_subject": -4},
        {"description": "what it is", "metadata": {"a": "b"}}, {"metadata": {"_nats.req.level": "9", "_nats.ver": "1"}},
        {"allow_direct": True}, {"allow_rollup_hdrs": True}, {"deny_delete": True, "deny_purge": True},
        {"allow_msg_ttl": True}, {"subject_delete_marker_ttl": SECOND}, {"first_seq": 100}, {"compression": "s2"}, {"compression": "none"},
        {"consumer_limits": {"inactive_threshold": SECOND, "max_ack_pending": 5}}, {"no_ack": True, "subjects": [">"]},
        {"subject_transform": {"src": "S", "dest": "T"}}, {"republish": {"src": "S", "dest": "R.S"}},
        {"republish": {"dest": "R.>", "headers_only": True}}, {"allow_msg_counter": True}, {"allow_atomic": True}, {"allow_msg_schedules": True},
        {"allow_batched": True}, {"persist_mode": "async"}, {"persist_mode": "default"}, {"placement": {}}, {"placement": {"tags": ["a"]}},
        {"placement": {"cluster": "c"}}, {"num_replicas": 0}, {"num_replicas": 1}, {"sources": [{"name": "O"}]}, {"mirror": {"name": "O"}},
        {"sources": [{"name": "O", "filter_subject": "a", "opt_start_seq": 4}]}, {"mirror": {"name": "O", "filter_subject": "a.>"}},
        {"sealed": False}, {"template_owner": "x"}, {"subjects": None, "max_age": None}, {"duplicate_window": 0, "max_age": 60 * SECOND},
        {"SUBJECTS": ["upper"]}, {"subjects": ["$JS.EVENT.X"]}, {"subjects": ["$SYS.ACCOUNT.X"]}, {"allow_msg_ttl": True, "subject_delete_marker_ttl": 5 * SECOND},
        {"mirror_direct": True}, {"mirror": {"name": "O"}, "mirror_direct": True},
    ]
    bad = [
        {"num_replicas": 3}, {"num_replicas": 6}, {"num_replicas": -1}, {"retention": "nope"}, {"retention": 1}, {"storage": "disk"},
        {"discard": "some"}, {"compression": "zstd"}, {"max_age": -1}, {"max_age": 1}, {"duplicate_window": -1}, {"duplicate_window": 5},
        {"max_age": SECOND, "duplicate_window": 2 * SECOND}, {"deny_purge": True, "allow_rollup_hdrs": True}, {"discard_new_per_subject": True},
        {"discard": "new", "discard_new_per_subject": True}, {"subjects": [""]}, {"subjects": ["a..b"]}, {"subjects": ["a", "a"]},
        {"subjects": ["a.*", "a.b"]}, {"subjects": [">"]}, {"subjects": ["$JS.API.>"]}, {"subjects": ["$SYS.>"]}, {"subjects": ["a b"]},
        {"subjects": [".a"]}, {"subjects": ["a."]}, {"subjects": ["a.>.b"]}, {"sealed": True}, {"subject_delete_marker_ttl": 5}, {"subject_delete_marker_ttl": -5},
        {"description": "d" * 5000}, {"metadata": {"k": "v" * 140_000}}, {"first_seq": -1}, {"max_msgs": "x"}, {"max_msgs": 1.5}, {"subjects": "a"},
        {"metadata": {"k": 1}}, {"allow_direct": "yes"}, {"name": "other"}, {"name": ""}, {"subject_transform": {"src": "a..b", "dest": "c"}},
        {"subject_transform": {"src": "a.*", "dest": "b.{{wildcard(2)}}"}}, {"republish": {"src": "S", "dest": "S"}}, {"republish": {"src": "S", "dest": "R.*"}},
        {"allow_msg_counter": True, "discard": "new"}, {"allow_msg_counter": True, "allow_msg_ttl": True}, {"allow_msg_counter": True, "retention": "interest"},
        {"allow_msg_schedules": True, "discard": "new"}, {"persist_mode": "async", "storage": "memory"}, {"persist_mode": "nope"},
        {"persist_mode": "async", "allow_atomic": True}, {"mirror": {"name": "O"}, "subjects": ["a"]}, {"mirror": {"name": "O"}, "first_seq": 5},
        {"mirror": {"name": "O"}, "sources": [{"name": "P"}]}, {"mirror": {"name": ""}}, {"mirror": {"name": "a.b"}}, {"mirror": {"name": "S"}},
        {"mirror": {"name": "O"}, "allow_msg_counter": True}, {"mirror": {"name": "O"}, "allow_atomic": True}, {"mirror": {"name": "O"}, "allow_msg_schedules": True},
        {"mirror": {"name": "O"}, "subject_delete_marker_ttl": SECOND}, {"mirror": {"name": "O", "opt_start_seq": 5, "opt_start_time": "2020-01-01T00:00:00Z"}},
        {"mirror": {"name": "O", "filter_subject": "a", "subject_transforms": [{"src": "a", "dest": "b"}]}},
        {"mirror": {"name": "O", "subject_transforms": [{"src": "a.*", "dest": "b"}, {"src": "a.b", "dest": "c"}]}},
        {"sources": [{"name": ""}]}, {"sources": [{"name": "O"}, {"name": "O"}]}, {"sources": [{"name": "O"}], "allow_msg_schedules": True},
        {"sources": [{"name": "O", "subject_transforms": [{"src": "a..b", "dest": "c"}]}]}, {"sources": [{"name": "S"}]},
        {"sources": [{"name": "O", "external": {"api": "$JS.API", "deliver": "x"}}]}, {"sources": [{"name": "O", "external": {"api": "a.*", "deliver": "x"}}]},
        {"placement": {"preferred": "x"}},
    ]
    for config in [*good, *bad]:
        yield create("S", **config)
        if "mirror" in config or "sources" in config:
            # Copying begins behind the answer.
            yield wait(0.4)
        yield api("STREAM.INFO.S")
        yield api("STREAM.DELETE.S")
    for config in ({"max_msgs": -5}, {"max_bytes": -7}, {"max_age": SECOND}, {"subject_delete_marker_ttl": SECOND}, {"allow_msg_schedules": True}, {"republish": {"dest": "R.>"}}):
        yield api("STREAM.CREATE.P", {"name": "P", "pedantic": True, **config})
        yield api("STREAM.DELETE.P")
    for name in ("a b", "a.b", "a*", "a>", "a/b", "a\\b", "x" * 255, "x" * 256, "ü"):
        if " " in name:
            continue
        yield create(name)
    yield api("STREAM.CREATE.S", {"name": "T"})
    yield api("STREAM.CREATE.S", {"name": "S"}, {"Nats-Required-Api-Level": "99"})
    yield api("STREAM.CREATE.S", {"name": "S"}, {"Nats-Required-Api-Level": "x"})
    yield api("STREAM.CREATE.S", {"name": "S"}, {"Nats-Required-Api-Level": "1"})


def stream_updates():
    base = {"subjects": ["s.>"], "max_msgs": 100}
    changes = [
        {}, {"description": "new"}, {"max_msgs": 2}, {"subjects": ["s.>", "t"]}, {"subjects": []}, {"storage": "memory"}, {"retention": "interest"},
        {"retention": "workqueue"}, {"max_consumers": 3}, {"max_age": SECOND}, {"discard": "new"}, {"deny_delete": True}, {"deny_delete": False},
        {"deny_purge": True}, {"deny_purge": False}, {"allow_rollup_hdrs": True}, {"allow_msg_ttl": True}, {"allow_msg_ttl": False}, {"first_seq": 77},
        {"allow_direct": True}, {"num_replicas": 3}, {"compression": "s2"}, {"mirror": {"name": "O"}}, {"sources": [{"name": "O"}]}, {"republish": {"dest": "R.>"}},
        {"subject_transform": {"src": "s.>", "dest": "z.>"}}, {"allow_msg_counter": True}, {"allow_atomic": True}, {"allow_msg_schedules": True}, {"allow_msg_schedules": False},
        {"duplicate_window": SECOND}, {"no_ack": True}, {"metadata": {"a": "b"}}, {"consumer_limits": {"max_ack_pending": 1}}, {"max_msg_size": 10}, {"persist_mode": "async"},
        {"name": "other"}, {"sealed": True}, {"sealed": False}, {"sealed": True, "description": "after"},
    ]
    yield update("S", **base)
    yield create("S", **base)
    for number in range(5):
        yield pub(f"s.{number % 2}", f"message {number}")
    for change in changes:
        yield update("S", **{**base, **change})
    yield pub("s.1", "sealed")
    yield api("STREAM.PURGE.S")
    yield api("STREAM.MSG.DELETE.S", {"seq": 1})
    yield create("S", **base)
    yield create("T", subjects=["s.x"])
    yield create("T", subjects=["t.>"])
    yield update("T", subjects=["s.*"])
    yield update("T", subjects=["u.>"])
    yield pub("t.1")
    yield pub("u.1", "moved")
    yield create("U", subjects=["t.>"])
    yield api("STREAM.LIST", {"subject": "u.1"})
    yield api("STREAM.NAMES", {"subject": "*.1"})
    yield api("STREAM.NAMES", {"offset": 1})
    yield api("STREAM.NAMES", {"offset": 9})
    yield api("STREAM.NAMES", {"offset": -1})
    yield api("STREAM.NAMES", {"subject": "a..b"})
    yield api("STREAM.LIST", {"offset": 2})
    yield api("INFO")
    yield api("STREAM.DELETE.S", "{}")
    yield api("STREAM.DELETE.T", "x")


def messages():
    yield create("S", subjects=["s.>"], allow_direct=True, duplicate_window=60 * SECOND, max_msgs_per_subject=5, max_msg_size=1000, allow_rollup_hdrs=True)
    for number in range(1, 13):
        yield pub(f"s.{number % 3}.x", f"message {number}", {"Key": str(number)} if number % 4 == 0 else None)
    publishes = [
        {"Nats-Msg-Id": "a"}, {"Nats-Msg-Id": "a"}, {"Nats-Expected-Stream": "S"}, {"Nats-Expected-Stream": "T"}, {"Nats-Expected-Last-Sequence": "14"},
        {"Nats-Expected-Last-Sequence": "3"}, {"Nats-Expected-Last-Sequence": "x"}, {"Nats-Expected-Last-Sequence": "0"}, {"Nats-Expected-Last-Msg-Id": "b"}, {"Nats-Expected-Last-Msg-Id": "a"},
        {"Nats-Expected-Last-Subject-Sequence": "0"}, {"Nats-Expected-Last-Subject-Sequence": "99"}, {"Nats-Expected-Last-Subject-Sequence": "x"},
        {"Nats-Expected-Last-Subject-Sequence": "12", "Nats-Expected-Last-Subject-Sequence-Subject": "s.0.x"},
        {"Nats-Expected-Last-Subject-Sequence": "1", "Nats-Expected-Last-Subject-Sequence-Subject": "s.*.x"},
        {"Nats-Expected-Last-Subject-Sequence-Subject": "s.0.x"}, {"Nats-Rollup": "nope"}, {"Nats-TTL": "5s"}, {"Nats-TTL": "x"}, {"Nats-TTL": "never"},
        {"Nats-Incr": "1"}, {"Nats-Batch-Id": "b", "Nats-Batch-Sequence": "1"}, {"Nats-Schedule": "@at 2030-01-01T00:00:00Z", "Nats-Schedule-Target": "s.t"},
        {"Nats-Rollup": "sub"}, {"Nats-Msg-Id": ""}, {"Nats-Required-Api-Level": "99"}, {"Nats-Msg-Id": "c" * 300},
    ]
    for headers in publishes:
        yield pub("s.1.x", "with headers", headers)
    yield pub("s.1.x", "x" * 1001)
    yield pub("s.1.x", "y" * 990)
    yield pub("s", "not captured")
    for number in range(4):
        yield pub("s.many", f"{number}")
    gets = [
        "", "{}", {"seq": 1}, {"seq": 5}, {"seq": 999}, {"seq": 0}, {"seq": -1}, {"seq": "1"}, {"last_by_subj": "s.0.x"}, {"last_by_subj": "s.*.x"}, {"last_by_subj": "nope"},
        {"last_by_subj": "s..x"}, {"next_by_subj": "s.1.x"}, {"seq": 6, "next_by_subj": "s.0.x"}, {"seq": 6, "next_by_subj": ">"}, {"seq": 99, "next_by_subj": "s.0.x"},
        {"seq": 1, "last_by_subj": "s.0.x"}, {"last_by_subj": "a", "next_by_subj": "b"}, {"start_time": "2020-01-01T00:00:00Z"}, {"start_time": "2090-01-01T00:00:00Z"},
        {"start_time": "nope"}, {"start_time": "2020-01-01T00:00:00Z", "next_by_subj": "s.2.x"}, {"seq": 4, "start_time": "2020-01-01T00:00:00Z"}, {"batch": 3, "seq": 1},
        {"seq": 4, "no_hdr": True}, {"seq": 4, "max_bytes": 5}, {"multi_last": ["s.*.x"]}, {"seq": 12},
    ]
    for request in gets:
        yield api("STREAM.MSG.GET.S", request)
        yield many("DIRECT.GET.S", request)
    direct = [
        {"batch": 3, "seq": 1}, {"batch": 3, "seq": 5, "next_by_subj": "s.0.x"}, {"batch": 3, "next_by_subj": "s.*.x"}, {"batch": 50, "seq": 1, "max_bytes": 40}, {"batch": 2, "seq": 1000},
        {"batch": 5, "seq": 1, "no_hdr": True}, {"multi_last": ["s.0.x", "s.2.x"]}, {"multi_last": [">"], "batch": 2}, {"multi_last": ["s.*.x"], "up_to_seq": 11},
        {"multi_last": ["nope"]}, {"multi_last": ["s.>"], "up_to_time": "2090-01-01T00:00:00Z"}, {"multi_last": ["s.>"], "up_to_seq": 3, "up_to_time": "2090-01-01T00:00:00Z"},
        {"multi_last": ["s.>"], "seq": 12}, {"batch": -1, "seq": 3}, {"batch": 2000, "seq": 1, "next_by_subj": "s.many"}, {"multi_last": ["s.>"], "next_by_subj": "s.a"},
        {"batch": 2, "start_time": "2020-01-01T00:00:00Z"}, {"batch": 2, "start_time": "2090-01-01T00:00:00Z"}, {"batch": 2, "last_by_subj": "s.1.x"},
    ]
    for request in direct:
        yield many("DIRECT.GET.S", request)
    for subject in ("s.0.x", "s.*.x", "nope", "s.>", "s..x"):
        yield many(f"DIRECT.GET.S.{subject}")
        yield many(f"DIRECT.GET.S.{subject}", "{}")
        yield many(f"DIRECT.GET.S.{subject}", {"no_hdr": True})
    for request in ("", {}, {"seq": 2}, {"seq": 2}, {"seq": 0}, {"seq": 999}, {"seq": 3, "no_erase": True}, {"seq": "x"}):
        yield api("STREAM.MSG.DELETE.S", request)
    infos = [
        {"deleted_details": True}, {"subjects_filter": ">"}, {"subjects_filter": "s.*.x"}, {"subjects_filter": "nope"}, {"subjects_filter": ">", "offset": 2},
        {"subjects_filter": ">", "offset": 100}, {"subjects_filter": "s..x"}, {"offset": -4}, {"subjects_filter": ">", "offset": -4}, {"deleted_details": "x"},
    ]
    for request in infos:
        yield api("STREAM.INFO.S", request)
    purges = [
        {"seq": 3, "keep": 2}, {"filter": "s.0.x", "keep": 1}, {"filter": "nope"}, {"filter": "s..x"}, {"seq": 4}, {"keep": 6}, {"filter": "s.*.x", "seq": 10}, {"keep": -1}, {"seq": "x"},
        "x", {"filter": ">"}, {"seq": 99}, "", {},
    ]
    for request in purges:
        yield api("STREAM.PURGE.S", request)
        yield api("STREAM.INFO.S")
    yield create("D", subjects=["d"], deny_delete=True, deny_purge=True)
    yield pub("d", "1")
    yield api("STREAM.MSG.DELETE.D", {"seq": 1})
    yield api("STREAM.PURGE.D")
    yield pub("d", "1", {"Nats-Rollup": "all"})
    yield many("DIRECT.GET.D", {"seq": 1})
    yield create("N", subjects=["n"], max_msgs=2, discard="new")
    for number in range(3):
        yield pub("n", f"{number}")
    yield create("NB", subjects=["nb"], max_bytes=200, discard="new")
    for number in range(4):
        yield pub("nb", "x" * 50)
    yield create("NP", subjects=["np.*"], max_msgs_per_subject=1, discard="new", discard_new_per_subject=True)
    for subject in ("np.a", "np.b", "np.a"):
        yield pub(subject, "x")
    yield create("TTL", subjects=["ttl"], allow_msg_ttl=True)
    for ttl in ("1s", "0", "-1", "x", "never", "500ms", "1h", "10"):
        yield pub("ttl", "x", {"Nats-TTL": ttl})
    yield create("NA", subjects=["na"], no_ack=True)
    yield pub("na", "x")
    yield api("STREAM.INFO.NA")


def consumer_configs():
    yield create("S", subjects=["s.>"], max_consumers=-1)
    yield create("W", subjects=["w.>"], retention="workqueue")
    yield create("I", subjects=["i.>"], retention="interest")
    yield create("L", subjects=["l.>"], consumer_limits={"inactive_threshold": SECOND, "max_ack_pending": 5})
    yield create("M", subjects=["m.>"], storage="memory", max_consumers=1)
    for number in range(6):
        yield pub(f"s.{number % 3}", f"message {number}")
    good = [
        {}, {"description": "d", "metadata": {"a": "b"}}, {"ack_policy": "none"}, {"ack_policy": "all"}, {"ack_policy": None}, {"deliver_policy": "last"}, {"deliver_policy": "new"},
        {"deliver_policy": "by_start_sequence", "opt_start_seq": 3}, {"deliver_policy": "by_start_time", "opt_start_time": "2020-01-01T00:00:00Z"},
        {"deliver_policy": "last_per_subject", "filter_subject": "s.*"}, {"filter_subject": "s.1"}, {"filter_subjects": ["s.1", "s.2"]}, {"filter_subject": "other"},
        {"max_deliver": 5, "backoff": [SECOND, 2 * SECOND]}, {"ack_wait": 5 * SECOND}, {"max_ack_pending": -5}, {"max_ack_pending": 7}, {"max_waiting": 3}, {"max_waiting": -3},
        {"max_batch": 5, "max_expires": SECOND, "max_bytes": 100}, {"max_batch": -1, "max_expires": -1, "max_bytes": -1}, {"headers_only": True}, {"mem_storage": True},
        {"inactive_threshold": 5 * SECOND}, {"inactive_threshold": -5}, {"replay_policy": "original"}, {"sample_freq": "50%"}, {"sample_freq": "100"}, {"num_replicas": 1},
        {"deliver_subject": "out"}, {"deliver_subject": "out", "deliver_group": "g"}, {"deliver_subject": "out", "idle_heartbeat": SECOND, "flow_control": True}, {"deliver_subject": "out", "rate_limit_bps": 1000},
        {"deliver_subject": "out", "headers_only": True}, {"priority_policy": "overflow", "priority_groups": ["a"]}, {"priority_policy": "pinned_client", "priority_groups": ["a"]},
        {"priority_policy": "prioritized", "priority_groups": ["a"]}, {"priority_policy": "none"}, {"pause_until": "2090-01-01T00:00:00Z"}, {"pause_until": "2020-01-01T00:00:00Z"}, {"max_deliver": -9},
        {"name": "C"}, {"metadata": {"_nats.ver": "x"}}, {"deliver_subject": "out", "ack_policy": "flow_control", "max_ack_pending": 10},
    ]
    bad = [
        {"ack_policy": "nope"}, {"deliver_policy": "nope"}, {"replay_policy": "nope"}, {"ack_wait": -1}, {"backoff": [-1]}, {"max_deliver": 1, "backoff": [1, 2]}, {"max_deliver": 2, "backoff": [1, 2]},
        {"description": "d" * 5000}, {"metadata": {"k": "v" * 140_000}}, {"deliver_policy": "by_start_sequence"}, {"deliver_policy": "by_start_time"}, {"opt_start_seq": 4}, {"opt_start_time": "2020-01-01T00:00:00Z"},
        {"deliver_policy": "last", "opt_start_seq": 4}, {"deliver_policy": "new", "opt_start_time": "2020-01-01T00:00:00Z"}, {"deliver_policy": "last_per_subject"},
        {"deliver_policy": "by_start_sequence", "opt_start_seq": 3, "opt_start_time": "2020-01-01T00:00:00Z"}, {"deliver_policy": "by_start_time", "opt_start_seq": 3, "opt_start_time": "2020-01-01T00:00:00Z"},
        {"filter_subject": "s..1"}, {"filter_subjects": ["s.1", "s.1"]}, {"filter_subjects": ["s.*", "s.1"]}, {"filter_subjects": [""]}, {"filter_subject": "s.1", "filter_subjects": ["s.2"]},
        {"filter_subjects": ["s..1"]}, {"sample_freq": "x"}, {"sample_freq": "-5"}, {"num_replicas": 3}, {"num_replicas": -1}, {"rate_limit_bps": 5}, {"idle_heartbeat": SECOND}, {"flow_control": True}, {"max_expires": 5},
        {"direct": True}, {"deliver_subject": "out.*"}, {"deliver_subject": "out..x"}, {"deliver_subject": "s.9"}, {"deliver_subject": "out", "max_waiting": 5}, {"deliver_subject": "out", "ack_policy": "none", "max_ack_pending": 5},
        {"deliver_subject": "out", "idle_heartbeat": 5}, {"deliver_subject": "out", "flow_control": True}, {"deliver_subject": "out", "direct": True}, {"ack_policy": "flow_control"},
        {"deliver_subject": "out", "ack_policy": "flow_control", "ack_wait": SECOND}, {"deliver_subject": "out", "ack_policy": "flow_control", "max_deliver": 5},
        {"priority_policy": "overflow"}, {"priority_groups": ["a"]}, {"priority_policy": "overflow", "priority_groups": [""]}, {"priority_policy": "overflow", "priority_groups": ["a b"]},
        {"priority_policy": "overflow", "priority_groups": ["a" * 17]}, {"deliver_subject": "out", "priority_policy": "overflow", "priority_groups": ["a"]}, {"priority_timeout": 5}, {"priority_policy": "nope"},
        {"deliver_subject": "$JS.API.X"}, {"deliver_subject": "$SYS.X"}, {"deliver_group": "g"}, {"deliver_subject": "out", "deliver_group": "a b"}, {"max_deliver": "x"}, {"name": "other"}, {"backoff": "x"},
        {"durable_name": "a.b"}, {"durable_name": "a/b"}, {"durable_name": "other"},
    ]
    for config in [*good, *bad]:
        yield consumer("S", "C", **config)
        yield api("CONSUMER.INFO.S.C")
        yield api("CONSUMER.DELETE.S.C")
    for config in ({}, {"filter_subject": "w.1"}, {"filter_subject": "w.1"}, {"ack_policy": "none"}, {"ack_policy": "all"}, {"deliver_policy": "new"}, {"filter_subject": "w.*"}, {"filter_subject": "w.2"}, {"num_replicas": 1}):
        yield consumer("W", f"C{len(config)}{config.get('filter_subject', '').replace('.', '_').replace('*', 'x')}", **config)
    for config in ({"max_ack_pending": 6}, {"inactive_threshold": 2 * SECOND}, {}, {"max_ack_pending": 5}):
        yield consumer("L", "C", **config)
    yield consumer("M", "one")
    yield consumer("M", "two")
    yield consumer("M", "one", description="x")
    yield ephemeral("S", name="named")
    yield api("CONSUMER.CREATE.S.C", {"stream_name": "T", "config": {}})
    yield api("CONSUMER.CREATE.S.C.s.1", {"stream_name": "S", "config": {"name": "C", "filter_subject": "s.1"}})
    yield api("CONSUMER.CREATE.S.E.s.1", {"stream_name": "S", "config": {"name": "E", "filter_subject": "s.2"}})
    yield api("CONSUMER.CREATE.S.E.s.1", {"stream_name": "S", "config": {"name": "E"}})
    yield api("CONSUMER.CREATE.S.E.s.1", {"stream_name": "S", "config": {"name": "E", "filter_subjects": ["s.1"]}})
    yield api("CONSUMER.CREATE.S.E", {"stream_name": "S", "config": {"filter_subject": "s.2"}})
    yield api("CONSUMER.CREATE.S.E", {"stream_name": "S", "config": {"name": "F"}})
    yield api("CONSUMER.CREATE.S.E", {"stream_name": "S"})
    yield api("CONSUMER.CREATE.S.E", {"config": {}})
    yield api("CONSUMER.DURABLE.CREATE.S.G", {"stream_name": "S", "config": {"durable_name": "G"}})
    yield api("CONSUMER.DURABLE.CREATE.S.G", {"stream_name": "S", "config": {"durable_name": "H"}})
    yield api("CONSUMER.DURABLE.CREATE.S.G", {"stream_name": "S", "config": {}})
    yield api("CONSUMER.DURABLE.CREATE.S", {"stream_name": "S", "config": {}})
    yield api("CONSUMER.CREATE.S.P", {"stream_name": "S", "config": {"name": "P", "max_waiting": -1}, "pedantic": True})
    yield api("CONSUMER.CREATE.S.P", {"stream_name": "S", "config": {"name": "P", "backoff": [5]}, "pedantic": True})
    for more in ({}, {"deliver_subject": "out"}, {"deliver_subject": "out", "flow_control": True}):
        config = {"name": "P", "ack_policy": "flow_control", **more}
        yield api("CONSUMER.CREATE.S.P", {"stream_name": "S", "config": config, "pedantic": True})
    yield api("CONSUMER.CREATE.S.P", {"stream_name": "S", "config": {"name": "P"}, "action": "nope"})
    yield api("CONSUMER.NAMES.S")
    yield api("CONSUMER.NAMES.S", {"offset": 1})
    yield api("CONSUMER.NAMES.S", {"offset": 99})
    yield api("CONSUMER.LIST.S")
    yield api("CONSUMER.LIST.S", {"offset": 3})
    yield api("CONSUMER.LIST.W")
    # Behind the lists' pages: a generated name is anywhere in them.
    yield ephemeral("S")
    yield ephemeral("S", durable_name="d")
    yield ephemeral("S", deliver_subject="out", direct=True, ack_policy="none")
    yield api("CONSUMER.CREATE.S", {"stream_name": "S"})
    yield api("CONSUMER.NAMES.S")
    yield api("CONSUMER.LIST.S")


def consumer_updates():
    yield create("S", subjects=["s.>"])
    yield consumer("S", "C", action="update")
    yield consumer("S", "C", action="create")
    yield consumer("S", "C", action="create")
    yield consumer("S", "C", action="create", description="x")
    changes = [
        {}, {"description": "x"}, {"ack_wait": SECOND}, {"max_deliver": 3}, {"max_ack_pending": 3}, {"max_waiting": 3}, {"filter_subject": "s.1"}, {"filter_subjects": ["s.1", "s.2"]}, {"ack_policy": "none"},
        {"deliver_policy": "new"}, {"deliver_policy": "by_start_sequence", "opt_start_seq": 2}, {"replay_policy": "original"}, {"deliver_subject": "out"}, {"headers_only": True}, {"sample_freq": "10"},
        {"max_batch": 3}, {"max_expires": SECOND}, {"max_bytes": 5}, {"inactive_threshold": SECOND}, {"backoff": [1, 2], "max_deliver": 3}, {"mem_storage": True}, {"metadata": {"x": "y"}}, {"num_replicas": 1}, {"num_replicas": 3},
        {"priority_policy": "overflow", "priority_groups": ["a"]}, {"pause_until": "2090-01-01T00:00:00Z"}, {"rate_limit_bps": 5}, {"idle_heartbeat": SECOND}, {"direct": True},
    ]
    for change in changes:
        yield consumer("S", "C", action="update", **change)
    push = {"deliver_subject": "out"}
    yield consumer("S", "P", **push)
    for change in ({}, {"deliver_subject": "out2"}, {"deliver_group": "g"}, {"deliver_subject": ""}, {"idle_heartbeat": SECOND}, {"idle_heartbeat": SECOND, "flow_control": True}, {"rate_limit_bps": 100}, {"max_waiting": 5}):
        yield consumer("S", "P", **{**push, **change})
    pauses = [{"pause_until": "2090-01-01T00:00:00Z"}, {}, "", {"pause_until": "2020-01-01T00:00:00Z"}, {"pause_until": "x"}]
    for request in pauses:
        yield api("CONSUMER.PAUSE.S.C", request)
        yield api("CONSUMER.INFO.S.C")
    for request in ("", {}, {"seq": 5}, {"seq": 0}, {"seq": 999}, {"seq": "x"}):
        yield api("CONSUMER.RESET.S.C", request)
    for request in ("", {}, {"group": "a"}, {"group": "nope"}):
        yield api("CONSUMER.UNPIN.S.C", request)
    yield api("CONSUMER.DELETE.S.C", "x")
    yield api("CONSUMER.DELETE.S.C", "{}")
    yield api("CONSUMER.DELETE.S.C")


def deliveries():
    yield create("S", subjects=["s.>"])
    for number in range(10):
        yield pub(f"s.{number % 2}", f"message {number}", {"N": str(number)} if number % 5 == 0 else None)
    yield consumer("S", "C", max_waiting=2, max_batch=5, max_expires=5 * SECOND, max_bytes=200)
    pulls = [
        "", "1", "3", "{}", {"batch": 2}, {"batch": 2, "no_wait": True}, {"batch": 6}, {"batch": 1, "expires": 6 * SECOND}, {"max_bytes": 300, "batch": 1}, {"batch": 5, "no_wait": True}, {"batch": 5, "no_wait": True},
        {"batch": 1, "expires": SECOND // 5}, {"batch": 2, "expires": SECOND // 2, "idle_heartbeat": SECOND // 10}, {"batch": 1, "expires": SECOND // 10, "idle_heartbeat": SECOND}, {"batch": -1}, {"batch": 0}, "x",
        {"batch": 1, "max_bytes": 1, "no_wait": True}, {"batch": 1, "group": "a"}, {"batch": 1, "min_pending": 5}, {"batch": 1, "no_wait": True, "expires": SECOND // 10}, {"expires": -1}, {"idle_heartbeat": 5, "batch": 1, "expires": SECOND},
    ]
    for request in pulls:
        yield many("CONSUMER.MSG.NEXT.S.C", request)
    yield api("CONSUMER.INFO.S.C")
    yield many("CONSUMER.MSG.NEXT.S.NOPE")
    yield many("CONSUMER.MSG.NEXT.NOPE.C")
    yield consumer("S", "D", deliver_policy="last_per_subject", filter_subject="s.*")
    yield many("CONSUMER.MSG.NEXT.S.D", {"batch": 10, "no_wait": True})
    yield api("CONSUMER.INFO.S.D")
    yield consumer("S", "H", headers_only=True)
    yield many("CONSUMER.MSG.NEXT.S.H", {"batch": 2, "no_wait": True})
    yield consumer("S", "F", filter_subject="s.1")
    yield many("CONSUMER.MSG.NEXT.S.F", {"batch": 3, "no_wait": True})
    for payload in ("+ACK", "-NAK", "+WPI", "+TERM", "+NXT", "+OK", "", "+TERM because", '-NAK {"delay": 1}', "nope", "+NXT 2", '+NXT {"batch":1,"no_wait":true}', "-NAK x"):
        yield ("ack", "F", payload.encode(), None)
    yield api("CONSUMER.INFO.S.F")
    yield consumer("S", "MD", max_deliver=1, ack_wait=SECOND // 5)
    yield many("CONSUMER.MSG.NEXT.S.MD", {"batch": 2, "no_wait": True})
    yield wait(0.5)
    yield many("CONSUMER.MSG.NEXT.S.MD", {"batch": 9, "no_wait": True})
    yield api("CONSUMER.INFO.S.MD")
    yield consumer("S", "A", ack_policy="all")
    yield many("CONSUMER.MSG.NEXT.S.A", {"batch": 5, "no_wait": True})
    yield ("ack", "A", b"+ACK", None)
    yield api("CONSUMER.INFO.S.A")
    yield consumer("S", "P", max_ack_pending=2)
    yield many("CONSUMER.MSG.NEXT.S.P", {"batch": 5, "no_wait": True})
    yield api("CONSUMER.INFO.S.P")
    yield consumer("S", "PUSH", deliver_subject="out")
    yield many("CONSUMER.MSG.NEXT.S.PUSH", {"batch": 5})
    yield api("STREAM.PURGE.S")
    yield api("CONSUMER.LIST.S")
    yield api("STREAM.DELETE.S")


def features():
    yield create("C", subjects=["c.>"], allow_msg_counter=True, allow_direct=True)
    for value in ("+1", "5", "-2", "x", "", "0", "1.5", "99999999999999999999999999"):
        yield pub("c.1", "", {"Nats-Incr": value})
    yield pub("c.1", "no increment")
    yield pub("c.1", "with a payload", {"Nats-Incr": "1"})
    yield api("STREAM.MSG.GET.C", {"last_by_subj": "c.1"})
    yield create("B", subjects=["b.>"], allow_atomic=True)
    for sequence, commit in ((1, None), (2, None), (3, "1")):
        yield pub("b.1", f"message {sequence}", {"Nats-Batch-Id": "one", "Nats-Batch-Sequence": str(sequence), **({"Nats-Batch-Commit": commit} if commit else {})})
    batches = [
        {"Nats-Batch-Id": "two", "Nats-Batch-Sequence": "2"}, {"Nats-Batch-Id": "x" * 65, "Nats-Batch-Sequence": "1"}, {"Nats-Batch-Id": "", "Nats-Batch-Sequence": "1"},
        {"Nats-Batch-Id": "three"}, {"Nats-Batch-Id": "four", "Nats-Batch-Sequence": "x"}, {"Nats-Batch-Id": "five", "Nats-Batch-Sequence": "1", "Nats-Batch-Commit": "1"},
        {"Nats-Batch-Id": "six", "Nats-Batch-Sequence": "1", "Nats-Batch-Commit": "nope"}, {"Nats-Batch-Id": "seven", "Nats-Batch-Sequence": "1", "Nats-Expected-Last-Msg-Id": "a"},
        {"Nats-Batch-Id": "eight", "Nats-Batch-Sequence": "1", "Nats-Batch-Commit": "1", "Nats-Msg-Id": "dup"}, {"Nats-Batch-Id": "nine", "Nats-Batch-Sequence": "1", "Nats-Batch-Commit": "1", "Nats-Msg-Id": "dup"},
        {"Nats-Batch-Id": "ten", "Nats-Batch-Sequence": "1", "Nats-Batch-Commit": "1", "Nats-Expected-Last-Sequence": "1"},
        {"Nats-Batch-Id": "eleven", "Nats-Batch-Sequence": "1", "Nats-Batch-Commit": "1", "Nats-Expected-Last-Subject-Sequence": "0"},
    ]
    for headers in batches:
        yield pub("b.2", "x", headers)
    yield api("STREAM.INFO.B")
    yield create("D", subjects=["d.>"], allow_msg_schedules=True, allow_msg_ttl=True)
    schedules = [
        {"Nats-Schedule": "@at 2090-01-01T00:00:00Z", "Nats-Schedule-Target": "d.out"}, {"Nats-Schedule": "@at nope", "Nats-Schedule-Target": "d.out"},
        {"Nats-Schedule": "@at 2090-01-01T00:00:00Z"}, {"Nats-Schedule": "@at 2090-01-01T00:00:00Z", "Nats-Schedule-Target": "other"},
        {"Nats-Schedule": "@at 2090-01-01T00:00:00Z", "Nats-Schedule-Target": "d.*"}, {"Nats-Schedule": "@every 1h", "Nats-Schedule-Target": "d.out"},
        {"Nats-Schedule": "@every 1ms", "Nats-Schedule-Target": "d.out"}, {"Nats-Schedule": "0 0 0 1 1 *", "Nats-Schedule-Target": "d.out"}, {"Nats-Schedule": "x", "Nats-Schedule-Target": "d.out"},
        {"Nats-Schedule": "@at 2090-01-01T00:00:00Z", "Nats-Schedule-Target": "d.out", "Nats-Schedule-TTL": "x"}, {"Nats-Schedule": "@at 2090-01-01T00:00:00Z", "Nats-Schedule-Target": "d.1"},
        {"Nats-Schedule": "@at 2090-01-01T00:00:00Z", "Nats-Schedule-Target": "d.out", "Nats-Schedule-Source": "d.*"}, {"Nats-Schedule-Target": "d.out"},
    ]
    for number, headers in enumerate(schedules):
        yield pub(f"d.{number + 1}", "later", headers)
    yield api("STREAM.INFO.D", {"subjects_filter": ">"})
    yield create("O", subjects=["o.>"])
    for number in range(4):
        yield pub(f"o.{number % 2}", f"message {number}")
    yield create("M", mirror={"name": "O", "filter_subject": "o.1"})
    yield create("N", sources=[{"name": "O", "subject_transforms": [{"src": "o.*", "dest": "n.{{wildcard(1)}}"}]}])
    yield wait(1.0)
    for stream in ("M", "N"):
        yield api(f"STREAM.INFO.{stream}", {"subjects_filter": ">"})
        for sequence in range(1, 5):
            yield api(f"STREAM.MSG.GET.{stream}", {"seq": sequence})
    yield pub("n.1", "not captured")
    yield update("M", mirror={"name": "other"})
    yield update("M", mirror=None, subjects=["m"])
    yield create("F", sources=[{"name": "O", "consumer": {"name": "F", "deliver_subject": "f.out"}}])
    yield create("G", sources=[{"name": "O", "opt_start_seq": 2, "consumer": {"name": "F", "deliver_subject": "f.out"}}])
    yield create("H", mirror={"name": "O", "consumer": {"name": "a.b", "deliver_subject": "f.out"}})
    yield create("K", sources=[{"name": "O", "consumer": {"name": "F", "deliver_subject": "f.out"}}, {"name": "O", "subject_transforms": [{"src": "o.1", "dest": "x"}], "consumer": {"name": "F", "deliver_subject": "f.out"}}])


def every_request():
    """Each request once, without and with words in it."""
    for subject in (
        "INFO", "STREAM.CREATE.S", "STREAM.UPDATE.S", "STREAM.INFO.S", "STREAM.DELETE.S", "STREAM.PURGE.S", "STREAM.NAMES", "STREAM.LIST", "STREAM.MSG.GET.S",
        "STREAM.MSG.DELETE.S", "STREAM.LEADER.STEPDOWN.S", "CONSUMER.CREATE.S.C", "CONSUMER.INFO.S.C", "CONSUMER.DELETE.S.C", "CONSUMER.NAMES.S", "CONSUMER.LIST.S",
        "CONSUMER.PAUSE.S.C", "CONSUMER.MSG.NEXT.S.C", "DIRECT.GET.S", "DIRECT.GET.S.a", "NOPE",
    ):
        yield api(subject)


def in_a_domain():
    for subject in ("INFO", "STREAM.NAMES", "STREAM.INFO.S", "CONSUMER.MSG.NEXT.S.C", "DIRECT.GET.S.a", "NOPE"):
        for domain in ("hub", "other"):
            yield ("api", f"$JS.{domain}.API.{subject}", b"", None)
    yield ("api", "$JS.hub.API.STREAM.CREATE.S", encode({"name": "S", "subjects": ["s"]}), None)
    yield pub("s", "x")
    yield ("api", "$JS.hub.API.STREAM.INFO.S", b"", None)
    yield ("api", "$JS.hub.API.STREAM.MSG.GET.S", encode({"seq": 1}), None)


ACCOUNTS = """
accounts {
  $SYS { users: [{user: sys, password: sys}] }
  APP { jetstream: enabled, users: [{user: app, password: app}] }
  NONE { users: [{user: none, password: none}] }
}
"""

# Groups that need a server of their own: its configuration, and what the client says in CONNECT.
SETUPS = {
    "with a domain": ("jetstream { domain: hub }", {}),
    "account without JetStream": (ACCOUNTS, {"user": "none", "pass": "none"}),
    "system account": (ACCOUNTS, {"user": "sys", "pass": "sys"}),
}

GROUPS = {
    "nothing there": nothing_there,
    "stream configurations": stream_configs,
    "stream updates": stream_updates,
    "messages": messages,
    "consumer configurations": consumer_configs,
    "consumer updates": consumer_updates,
    "deliveries": deliveries,
    "features": features,
    "with a domain": in_a_domain,
    "account without JetStream": every_request,
    "system account": every_request,
}
