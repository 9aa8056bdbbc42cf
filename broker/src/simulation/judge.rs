//! Holding answers and deliveries against what is known.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::answer::Answer;
use super::ask::{Ask, Request, Wanted};
use super::consumers::{self, ConsumerModel, read_tag};
use super::life::DAMAGE_OF_MISDIRECTED;
use super::streams::{Fate, Sent, StreamModel};
use super::verdict::{Asked, Verdict};
use super::world::Got;
use super::{Faults, Run};

impl Run {
    /// Judges what one round brought.
    pub(super) fn judge(&mut self, asks: Vec<Ask>, got: Vec<Got>) {
        let is_troubled = self.is_troubled();
        for stream in self.streams.values_mut() {
            stream.round_over(is_troubled);
        }
        let mut answers: BTreeMap<String, Vec<Got>> = BTreeMap::new();
        let mut deliveries = Vec::new();
        for one in got {
            if one.reply.starts_with("$JS.ACK.") {
                deliveries.push(one);
            } else {
                answers.entry(one.to.clone()).or_default().push(one);
            }
        }
        let delivered: BTreeSet<(String, u64)> = deliveries
            .iter()
            .filter_map(|one| read_tag(&one.reply))
            .map(|(stream, _, tag)| (stream, tag.seq))
            .collect();
        // Timers come before requests: what left with a consumer whose time was over, or for its age, a consumer that was
        // created after that does not find. Its answer says where it starts, so nothing that it should have found passes for gone.
        if asks
            .iter()
            .any(|ask| matches!(ask.request, Request::CreateConsumer(_)))
        {
            self.look_at_loose(&delivered);
        }
        for ask in asks {
            let mine = answers.remove(&ask.inbox).unwrap_or_default();
            self.judge_one(ask, mine);
        }
        self.look_at_loose(&delivered);
        for one in deliveries {
            self.judge_delivery(one);
        }
        if !delivered.is_empty() {
            self.look_at_loose(&BTreeSet::new());
        }
        for status in answers.into_values().flatten() {
            self.judge_status(&status);
        }
        self.drop_ended();
    }

    fn judge_one(&mut self, ask: Ask, mut got: Vec<Got>) {
        let Ask {
            stream,
            inbox,
            request,
        } = ask;
        match request {
            Request::Publish { sent, asked, local } => {
                let answer = match local {
                    Some(mut answer) => match answer.try_recv() {
                        Ok(mut results) => {
                            self.world.note(&results);
                            Answer::of_local(results.remove(0))
                        }
                        Err(_) => Answer::Missing,
                    },
                    None => got
                        .first()
                        .map_or(Answer::Missing, |one| Answer::read(&one.payload)),
                };
                let is_silent =
                    inbox.is_empty() && asked.resend.is_none() && matches!(answer, Answer::Missing);
                self.judge_publish(stream, sent, &asked, &answer, is_silent);
            }
            Request::Get { wanted, is_direct } => self.judge_get(stream, &wanted, is_direct, got.pop()),
            Request::Several(asked) => self.judge_several(stream, &asked, &got),
            Request::Pull {
                consumer,
                batch,
                expires,
                share,
            } => {
                let now = self.world.now.mono.0;
                let Some(model) = self.consumer(stream, consumer) else {
                    return;
                };
                model.touch(now);
                // A bad request, or one with another pin.
                let is_refused = |one: &Got| {
                    one.headers.starts_with(b"NATS/1.0 400") || one.headers.starts_with(b"NATS/1.0 423")
                };
                if got.iter().all(is_refused) && !got.is_empty() {
                    return;
                }
                model.pulled(&share, now);
                let is_over = got.iter().any(|one| {
                    one.headers.starts_with(b"NATS/1.0 4") || one.headers.starts_with(b"NATS/1.0 503")
                });
                model.requests.insert(
                    inbox.clone(),
                    consumers::Request {
                        left: batch,
                        expires,
                        share,
                    },
                );
                if is_over {
                    self.ended.push(inbox);
                }
            }
            Request::Ack { consumer, seq, word } => {
                self.judge_ack(stream, consumer, seq, word, &inbox, !got.is_empty())
            }
            Request::Control { consumer, control } => {
                let answer = got
                    .first()
                    .map_or(Answer::Missing, |one| Answer::read(&one.payload));
                self.judge_control(stream, consumer, control, &answer);
            }
            request => {
                let answer = got
                    .first()
                    .map_or(Answer::Missing, |one| Answer::read(&one.payload));
                self.judge_api(stream, request, &answer);
            }
        }
    }

    /// A stream that the running broker has.
    pub(super) fn stream(&mut self, name: &str) -> &mut StreamModel {
        self.streams
            .get_mut(name)
            .expect("asked only of streams that are there")
    }

    pub(super) fn consumer(&mut self, stream: &str, consumer: &str) -> Option<&mut ConsumerModel> {
        self.streams.get_mut(stream)?.consumers.get_mut(consumer)
    }

    /// A request had no answer, or one that blames the disk: that must have a reason.
    pub(super) fn excuse(&mut self, stream: &str, what: &dyn std::fmt::Debug) {
        // Two bits may have hit a segment and the index from which it would be read: nothing is written until a restart then.
        let may_be_broken = self.streams.get(stream).is_some_and(|stream| stream.damage > 1);
        assert!(
            self.is_troubled_for(stream) || may_be_broken,
            "{stream}: {what:?} without any trouble of the disk"
        );
        if let Some(stream) = self.streams.get_mut(stream) {
            stream.is_sick = true;
        }
    }

    fn judge_publish(
        &mut self,
        name: &'static str,
        sent: Sent,
        asked: &Asked,
        answer: &Answer,
        is_silent: bool,
    ) {
        let now = (self.world.now.mono.0, self.world.now.wall);
        let is_troubled = self.is_troubled_for(name);
        // What damage took is not known before it is met.
        let is_loose = self.stream(name).is_loose() || self.stream(name).damage > 0;
        let verdict = self.stream(name).verdict(now.0, &sent.subject, &sent, asked);
        let no_ack = self.stream(name).config.no_ack && matches!(answer, Answer::Missing);
        match answer {
            Answer::Missing if (is_silent || no_ack) && !is_troubled && !is_loose => {
                // What the last id is may not be known, nor how long an id is while the clock jumps: the broker alone knows then.
                let has_jumped = self.has_jumped;
                let stream = self.stream(name);
                let is_vague = asked.expected_last_id.is_some() && stream.last_id.is_none()
                    || has_jumped
                        && asked
                            .msg_id
                            .as_ref()
                            .is_some_and(|id| stream.ids.contains_key(id));
                if verdict == Verdict::Stored && !is_vague {
                    let stream = self.stream(name);
                    let seq = stream.last + 1;
                    stream.store(now, seq, sent, asked, Fate::Live);
                    stream.confirmed = seq;
                } else if matches!(verdict, Verdict::Either(_) | Verdict::Stored) {
                    self.stream(name).is_sick = true;
                    self.stream(name).may_have_stored(now, sent, asked);
                }
            }
            Answer::Missing if is_silent || no_ack => {
                let stream = self.stream(name);
                stream.is_sick |= is_troubled;
                stream.may_have_stored(now, sent, asked);
            }
            Answer::Missing
            | Answer::Refused {
                is_disk: true,
                is_full: false,
                ..
            } => {
                self.excuse(name, answer);
                self.stream(name).may_have_stored(now, sent, asked);
            }
            Answer::Refused { is_full: true, .. } => {
                self.excuse(name, answer);
                self.stream(name).may_push_out(&sent, asked);
            }
            Answer::Refused { code, .. } => {
                let is_fullness = |code: u64| matches!(code, 10077 | 10071);
                let is_meant = |verdict: &Verdict| match verdict {
                    Verdict::Refused(expected) | Verdict::RefusedOr(expected, _) => expected == code,
                    _ => false,
                };
                let otherwise = self.stream(name).unbound_verdict(now.0, &sent, asked);
                // It is read anew when messages of a commit that failed are forgotten.
                let stream = self.stream(name);
                let last_id = stream.last_id.as_ref().filter(|_| !stream.is_sick);
                let is_other = last_id.is_none() || last_id != asked.expected_last_id.as_ref();
                let is_vague = is_loose || last_id.is_none();
                let is_id = *code == 10070 && asked.expected_last_id.is_some() && is_other && is_vague;
                let fits =
                    is_id || is_meant(&verdict) || (is_loose && (is_fullness(*code) || is_meant(&otherwise)));
                assert!(
                    fits,
                    "{name}: refused with {code}, expected {verdict:?}: {asked:?}"
                );
            }
            Answer::Value(ack) => self.judge_stored(name, now, sent, asked, ack, &verdict),
        }
    }

    fn judge_stored(
        &mut self,
        name: &'static str,
        now: (u64, crate::types::UnixNanos),
        sent: Sent,
        asked: &Asked,
        ack: &Value,
        verdict: &Verdict,
    ) {
        let seq = ack["seq"].as_u64().expect("an acknowledgement has a sequence");
        let stream = self.stream(name);
        assert_eq!(ack["stream"], name);
        if ack["duplicate"] == true {
            let fits = verdict.may_repeat(seq);
            // A restart works the window out anew from what is stored: then the message named has to carry the id.
            let ids = [asked.msg_id.as_ref(), asked.resend.as_ref().map(|(key, _)| key)];
            let names_it = |sent: &Sent| {
                let headers = String::from_utf8_lossy(&sent.headers);
                let mut ids = ids.iter().flatten();
                ids.any(|id| headers.contains(&format!(": {id}\r\n")))
            };
            let is_named = match stream.messages.get(&seq) {
                Some(message) => names_it(&message.sent),
                // One that had no answer may have been stored, and what replaced it has not taken its id along.
                None => stream.doubtful.iter().any(|one| names_it(&one.sent)),
            };
            let otherwise = stream.unbound_verdict(now.0, &sent, asked);
            let fits_otherwise = stream.is_loose() && otherwise.may_repeat(seq);
            assert!(
                fits || is_named || fits_otherwise || stream.damage > 0,
                "{name}: duplicate of {seq}, expected {verdict:?}"
            );
            return;
        }
        let is_loose = stream.is_loose() || stream.damage > 0;
        let fits = match verdict {
            Verdict::Stored | Verdict::Either(_) => true,
            Verdict::Refused(10077 | 10071) | Verdict::RefusedOr(10077 | 10071, _) => is_loose,
            Verdict::Refused(_) | Verdict::RefusedOr(..) | Verdict::Duplicate(_) => false,
        };
        assert!(
            fits || stream.damage > 0,
            "{name}: stored as {seq}, expected {verdict:?}: {asked:?}"
        );
        if !is_loose {
            assert_eq!(seq, stream.last + 1, "{name}: positions have no gaps");
        }
        stream.store(now, seq, sent, asked, Fate::Live);
        stream.confirmed = seq;
    }

    fn judge_api(&mut self, name: &'static str, request: Request, answer: &Answer) {
        let is_disk = matches!(answer, Answer::Missing | Answer::Refused { is_disk: true, .. });
        if is_disk {
            self.excuse(name, &request);
        }
        match request {
            Request::CreateStream(config) => self.judge_create(name, config, answer, is_disk),
            Request::UpdateStream(config) => {
                let (now, has_jumped) = (self.world.now, self.has_jumped);
                let stream = self.stream(name);
                match answer {
                    Answer::Value(_) => stream.updated(config, now, has_jumped),
                    _ if is_disk => stream.configs_in_doubt.push(config),
                    answer => panic!("{name} is not updated: {answer:?}"),
                }
            }
            Request::DeleteStream => {
                if answer.is_ok() {
                    self.streams.remove(name);
                    self.held.retain(|held| held.0 != name);
                } else {
                    assert!(is_disk, "{name} is not deleted: {answer:?}");
                    self.stream(name).is_in_doubt = true;
                }
            }
            Request::Purge { seq, keep, subject } => self.judge_purge(name, seq, keep, &subject, answer),
            Request::DeleteMessage(seq) => self.judge_delete(name, seq, answer),
            Request::StreamInfo => self.judge_stream_info(name, answer),
            Request::StreamList => self.judge_stream_list(answer),
            Request::ConsumerList => self.judge_consumer_list(name, answer),
            Request::Names(names) => self.judge_names(name, &names, answer),
            Request::CreateConsumer(config) => {
                let now = self.world.now.mono.0;
                let stream = self.stream(name);
                let model = ConsumerModel::new(config, stream, now);
                if let Answer::Value(info) = answer {
                    model.check_start(stream, info);
                    stream.consumers.insert(model.config.name, model);
                } else if is_disk {
                    stream.consumers_in_doubt.push(model);
                }
            }
            Request::DeleteConsumer(consumer) => {
                let stream = self.stream(name);
                if answer.is_ok() {
                    stream.consumers.remove(consumer);
                    self.held.retain(|held| held.0 != name || held.1 != consumer);
                } else if is_disk {
                    stream
                        .consumers
                        .get_mut(consumer)
                        .expect("it was there")
                        .is_in_doubt = true;
                } else {
                    self.gone(name, consumer);
                }
            }
            Request::ConsumerInfo(consumer) => {
                let Answer::Value(info) = answer else {
                    if !is_disk {
                        self.gone(name, consumer);
                    }
                    return;
                };
                self.judge_info(name, consumer, info);
            }
            request => unreachable!("{request:?} is judged elsewhere"),
        }
    }

    /// A consumer is not there: only one that nobody used for long enough may go.
    pub(super) fn gone(&mut self, name: &'static str, consumer: &'static str) {
        let now = self.world.now.mono.0;
        let Some(model) = self
            .streams
            .get_mut(name)
            .and_then(|stream| stream.consumers.remove(consumer))
        else {
            return;
        };
        assert!(
            model.was_abandoned(now),
            "consumer {consumer} of {name} has vanished"
        );
        self.held.retain(|held| held.0 != name || held.1 != consumer);
    }

    fn judge_create(
        &mut self,
        name: &'static str,
        config: super::config::StreamConfig,
        answer: &Answer,
        is_disk: bool,
    ) {
        let mut model = StreamModel::new(config);
        if self.faults == Faults::Misdirected {
            model.damage = DAMAGE_OF_MISDIRECTED;
        }
        let is_created = answer.is_ok();
        // A stream in memory leaves alone what a creation without a definite answer may have left on disk.
        if (!is_created || model.config.in_memory)
            && let Some(before) = self.streams.remove(name)
        {
            model.configs_in_doubt.push(before.config);
            model.configs_in_doubt.extend(before.configs_in_doubt);
        }
        if !is_created {
            assert!(is_disk, "{name} is not created: {answer:?}");
            model.is_alive = false;
            model.is_in_doubt = true;
        }
        self.streams.insert(name, model);
    }

    fn judge_purge(&mut self, name: &'static str, seq: u64, keep: u64, subject: &str, answer: &Answer) {
        let (wall, has_jumped) = (self.world.now.wall, self.has_jumped);
        let stream = self.stream(name);
        if stream.config.deny_purge {
            assert!(!answer.is_ok(), "{name} is purged");
            return;
        }
        let wanted = |sent: &Sent| subject.is_empty() || sent.subject == subject;
        let matching: Vec<u64> = stream
            .live()
            .filter(|(_, message)| wanted(&message.sent))
            .map(|(seq, _)| seq)
            .collect();
        let go = matching.len().saturating_sub(keep as usize);
        let going: BTreeSet<u64> = matching[..go]
            .iter()
            .copied()
            .filter(|one| seq == 0 || *one < seq)
            .collect();
        let is_loose = stream.is_loose();
        match answer {
            Answer::Value(value) => {
                let purged = value["purged"].as_u64().unwrap_or(u64::MAX);
                assert!(
                    is_loose || stream.damage > 0 || purged == going.len() as u64,
                    "{name}: {purged} purged instead of {going:?}"
                );
                // As many as expected need not be those: a publish of this round without an answer may be among what is kept, and
                // what an acknowledgement of this round took out makes room for another one.
                let is_known = keep == 0 || (!is_loose && purged == going.len() as u64);
                if subject.is_empty() && keep == 0 {
                    stream.purge(|one, _| seq == 0 || one < seq);
                } else if purged > 0 && is_known {
                    going
                        .iter()
                        .for_each(|one| stream.taken_out(*one, wall, has_jumped));
                } else if purged > 0 {
                    stream.purge_perhaps(|sent| wanted(sent));
                }
                if subject.is_empty() {
                    let is_empty = stream.live().next().is_none();
                    let is_all = seq > stream.last || (seq == 0 && (keep == 0 || is_empty));
                    let end = if is_all {
                        u64::MAX
                    } else {
                        going.last().map_or(0, |last| last + 1)
                    };
                    stream.purge_faded(end);
                    stream.forget_ids(is_all, seq == 0 && keep == 0);
                    stream.last = stream.last.max(seq.saturating_sub(1));
                }
            }
            answer => {
                assert!(stream.is_sick, "{name} is not purged: {answer:?}");
                stream.purge_perhaps(|sent| wanted(sent));
                stream.forget_ids(subject.is_empty(), false);
            }
        }
    }

    fn judge_delete(&mut self, name: &'static str, seq: u64, answer: &Answer) {
        let stream = self.stream(name);
        let is_there = stream
            .messages
            .get(&seq)
            .is_some_and(|message| message.fate == Fate::Live);
        match answer {
            Answer::Value(_) => {
                assert!(!stream.config.deny_delete, "{name} lets {seq} be deleted");
                let may_be = stream.is_loose() || stream.damage > 0;
                assert!(is_there || may_be, "{seq} of {name} was not there");
                stream.set(seq, Fate::Gone);
            }
            Answer::Refused { is_disk: false, .. } => {
                let fits = !is_there || stream.config.deny_delete || stream.is_loose() || stream.damage > 0;
                assert!(fits, "{seq} of {name} is not deleted: {answer:?}");
            }
            Answer::Refused { .. } | Answer::Missing => {
                stream.set(seq, Fate::Unknown);
                if let Some(message) = stream.messages.get_mut(&seq) {
                    message.is_doubted = true;
                }
            }
        }
    }

    fn judge_stream_info(&mut self, name: &'static str, answer: &Answer) {
        let stream = self.stream(name);
        let Answer::Value(info) = answer else { return };
        if stream.is_loose() || stream.damage > 0 {
            return;
        }
        let number = |key: &str| info["state"][key].as_u64().unwrap_or(0);
        let live: Vec<u64> = stream.live().map(|(seq, _)| seq).collect();
        let first = live.first().copied().unwrap_or(stream.last + 1);
        let subjects: BTreeSet<&String> = stream.live().map(|(_, message)| &message.sent.subject).collect();
        let found = (
            number("messages"),
            number("last_seq"),
            number("num_subjects"),
            number("bytes"),
        );
        let expected = (
            live.len() as u64,
            stream.last,
            subjects.len() as u64,
            stream.bytes(),
        );
        assert_eq!(found, expected, "messages, last, subjects, bytes of {name}");
        if stream.last > 0 {
            assert_eq!(number("first_seq"), first, "first of {name}");
        }
        if let Some(last) = live.last() {
            let holes = stream.last + 1 - first - live.len() as u64;
            assert_eq!(number("num_deleted"), holes, "deleted of {name}, {last} is live");
        }
    }

    fn judge_get(&mut self, name: &'static str, wanted: &Wanted, is_direct: bool, got: Option<Got>) {
        let Some(got) = got else {
            return self.excuse(name, wanted);
        };
        if !self.knows_what_is_read(name, matches!(wanted, Wanted::Since(..))) {
            return;
        }
        let stream = self.stream(name);
        let expected = match wanted {
            Wanted::At(seq) => stream.live().find(|(one, _)| one == seq),
            Wanted::LastOf(subject) => stream.live().rfind(|(_, one)| one.sent.subject == *subject),
            Wanted::NextOf(seq, subject) => stream
                .live()
                .find(|(one, message)| one >= seq && message.sent.subject == *subject),
            Wanted::Since(time, subject) => stream.since(*time).and_then(|first| {
                let is_wanted = |sent: &Sent| subject.is_empty() || sent.subject == *subject;
                stream
                    .live()
                    .find(|(one, message)| *one >= first && is_wanted(&message.sent))
            }),
        };
        let payload = if is_direct {
            let is_there = !got.headers.starts_with(b"NATS/1.0 4");
            is_there.then_some(got.payload)
        } else {
            let value: Value = serde_json::from_slice(&got.payload).expect("answers are JSON");
            value["message"]["seq"].as_u64().map(|seq| {
                let message = stream.messages.get(&seq);
                message.map_or_else(Vec::new, |message| message.sent.payload.clone())
            })
        };
        let expected = expected.map(|(_, message)| &message.sent.payload);
        assert_eq!(payload.as_ref(), expected, "{wanted:?} of {name}");
    }
}
