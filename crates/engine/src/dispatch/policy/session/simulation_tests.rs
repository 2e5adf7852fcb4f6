//! Simulates one session with a worker that acts randomly and whose reports arrive late and out of
//! order. `ONNXD_SIMULATION_SEED=N cargo test -p onnxd-engine session` replays a run.

use std::{collections::BTreeSet, time::Duration};

use onnxd_proto::{BUILD_ID, control_page::Slot, generation::Generation};
use onnxd_telemetry::metrics::{KillReason, Reason};

use crate::dispatch::{
    item::Priority,
    policy::{
        groups::{GroupState, SentGroup},
        overdue::OverdueAction,
        restarts::End,
        scheduler::{Group, ItemId},
        session::{
            Blame, Progress, SocketAction,
            script::exit,
            shorten_wait,
            simulation_world::{MODELS, Message, Process, SUPERVISION, World},
        },
    },
    worker::{Load, State},
};

const SEEDS: u64 = 500;
const STEPS: usize = 400;
impl World {
    fn start(&mut self) {
        shorten_wait(std::iter::once(&mut self.session));
        let Some(epoch) = self.session.start_due(self.now) else { return };
        assert!(self.process.is_none(), "seed {}: two processes", self.seed);
        assert!(!self.drained, "seed {}: started after the drain", self.seed);
        assert_eq!(self.session.state(), State::Starting);
        self.process = Some(Process { epoch, ..Process::default() });
    }

    /// The process monitor reports that the process runs or could not be started.
    fn started(&mut self) {
        let fails = self.below(12) == 0;
        let Some(process) = &mut self.process else { return };
        if process.is_reported || process.ended.is_some() {
            return;
        }
        process.is_reported = true;
        if fails {
            process.ended = Some(End::NotStarted);
        } else if self.session.process_started(self.now) == SocketAction::Connect {
            self.session.connected();
            process.messages.push_back(Message::Hello);
        } else {
            process.ended = Some(End::Requested);
        }
    }

    fn group(&mut self) {
        let (count, slot) = (1 + self.below(3), u16::try_from(self.below(MODELS.into())).unwrap());
        let priority = match self.below(3) {
            0 => Priority::Background,
            _ => Priority::Interactive,
        };
        let can_receive = self.session.is_idle() || self.session.is_nearly_idle();
        assert!(
            !can_receive || self.session.serves(),
            "seed {}: work for a worker that does not serve",
            self.seed
        );
        let Some(process) = self.process.as_mut().filter(|_| can_receive) else { return };
        assert!(!process.killed, "seed {}: work for a killed worker", self.seed);
        assert!(process.groups.len() < 2 || process.ended.is_some());
        let items: Vec<ItemId> = (self.last + 2..).take(usize::try_from(count).unwrap()).collect();
        self.last += 1;
        let id = self.last;
        self.last += count;
        let deadline = Some(self.now + Duration::from_millis(500));
        let sent =
            SentGroup { id, wide: false, deadline, committed: self.committed[usize::from(slot)] };
        let group = Group { slot, priority, items: items.clone(), micros: 1_000 };
        self.session.group_sent(&group, sent);
        assert_eq!(self.session.state(), State::Busy);
        process.groups.push_back((id, (0..u32::try_from(count).unwrap()).collect()));
        self.out.insert(id, items);
        self.reached.insert("group");
    }

    /// The process acts on its own.
    fn act(&mut self) {
        let (what, slot) = (self.below(10), usize::try_from(self.below(MODELS.into())).unwrap());
        let (some, fails) = (self.below(2) == 0, self.below(8) == 0);
        let committed = self.committed[slot];
        if let Some(process) = &mut self.process {
            process.act((what, some, fails), slot, committed);
        }
    }

    /// Ends the process and its socket.
    fn die(&mut self, end: End) {
        let Some(process) = &mut self.process else { return };
        if process.is_reported && process.ended.is_none() {
            process.ended = Some(end);
            process.messages.push_back(Message::End);
        }
    }

    /// The process monitor reports how the process ended.
    fn report_exit(&mut self) {
        let Some(process) = &mut self.process else { return };
        let Some(end) = process.ended.filter(|_| process.is_reported) else { return };
        if self.session.exit().is_none() {
            let mut how = exit(end);
            if process.killed && end == End::Accident {
                how.signal = Some(9);
            }
            let progress = self.session.process_ended(how, self.now);
            self.progress(progress);
        }
    }

    /// Reads the next message.
    fn read(&mut self) {
        let Some(process) = &mut self.process else { return };
        let epoch = process.epoch;
        let Some(message) = process.messages.pop_front() else { return };
        if !self.session.listens_to(epoch) {
            return;
        }
        if message == Message::End {
            let progress = self.session.socket_ended();
            return self.progress(progress);
        }
        self.message_received();
        match message {
            Message::Hello => {
                let committed = self.committed.to_vec();
                self.session.hello(BUILD_ID, true, committed).unwrap();
            }
            Message::Ready => self.session.ready(self.now),
            Message::Loaded(slot, generation) => self.loaded(slot, generation),
            Message::LoadFailed(slot, generation) => {
                self.session.load_failed(slot, generation, String::new());
            }
            Message::Answer(group, indices) => self.answered(group, &indices),
            Message::Pong | Message::End => {}
        }
    }

    fn loaded(&mut self, slot: Slot, generation: Generation) {
        let load = Load { generation, ..Load::default() };
        self.session.loaded(slot, load).unwrap();
        let newest = &mut self.newest[usize::from(slot)];
        assert!(generation >= *newest || self.session.generation(slot) == generation);
        *newest = generation.max(*newest);
        assert_eq!(self.session.newest_seen(slot), *newest, "seed {}", self.seed);
        if generation > 1 {
            let old = Load { generation: generation - 1, ..Load::default() };
            assert!(self.session.loaded(slot, old).is_err(), "seed {}: went backwards", self.seed);
            assert_eq!(self.session.generation(slot), generation);
        }
    }

    fn answered(&mut self, group: u64, indices: &[u32]) {
        let taken = self.session.answered(group, indices.iter().copied()).unwrap();
        let out = self.out.get_mut(&group).unwrap();
        for item in taken.items {
            assert!(self.settled.insert(item), "seed {}: answered twice", self.seed);
            out.retain(|one| *one != item);
        }
        assert_eq!(taken.group == GroupState::Done, out.is_empty());
        if out.is_empty() {
            self.out.remove(&group);
        }
        assert!(self.session.answered(group, indices.iter().copied()).is_none(), "answered twice");
    }

    fn ping(&mut self) {
        let serves = self.session.serves();
        if self.session.ping() {
            self.send_ping();
        } else {
            self.is_ping_owed |= serves;
        }
    }

    fn send_ping(&mut self) {
        self.session.pinged(self.now);
        let process = self.process.as_mut().unwrap();
        assert!(!process.killed, "seed {}: a ping for a killed worker", self.seed);
        process.pings += 1;
        self.is_ping_owed = false;
    }

    /// Records a sign of life and sends an owed ping.
    fn message_received(&mut self) {
        if self.session.message_received() {
            assert!(self.is_ping_owed, "seed {}: an unrequested ping", self.seed);
            self.reached.insert("owed ping");
            self.send_ping();
        } else {
            let can_receive = self.session.is_idle() || self.session.is_nearly_idle();
            assert!(
                !can_receive || !self.is_ping_owed,
                "seed {}: an owed ping is never sent",
                self.seed
            );
        }
        assert!(!self.session.message_received(), "a ping is owed only once");
    }

    fn progress(&mut self, progress: Progress) {
        if progress == Progress::Done {
            self.finish();
        }
    }

    /// Does what the actor does when a process is finished.
    fn finish(&mut self) {
        let process = self.process.take().unwrap();
        let was_stopped = process.killed_for == Some(KillReason::Stopped);
        let committed = self.committed;
        let (blame, load) = self.session.blame(|slot| committed[usize::from(slot)]);
        for unanswered in self.session.take_unanswered() {
            assert!(
                !(was_stopped && unanswered.is_suspect),
                "seed {}: a group is blamed",
                self.seed
            );
            for item in unanswered.items {
                assert!(self.settled.insert(item), "seed {}: taken back twice", self.seed);
                let groups = self.out.values_mut();
                groups.for_each(|items| items.retain(|one| *one != item));
            }
        }
        self.out.retain(|_, items| !items.is_empty());
        assert!(self.out.is_empty(), "seed {}: {:?} is lost", self.seed, self.out);
        assert!(!was_stopped || (blame, load) == (Blame::Nothing, None), "seed {}", self.seed);
        let jitter = f64::from(u32::try_from(self.below(65)).unwrap()) / 64.0;
        let finished = self.session.finish(self.now, jitter).unwrap();
        assert_eq!(finished.state, self.session.state());
        assert!(!self.drained || matches!(finished.state, State::Stopped | State::Failed));
        assert!(self.session.take_unanswered().is_empty());
        self.is_ping_owed = false;
        self.reached.insert(if was_stopped { "stopped" } else { "ended" });
    }

    /// Does what is due.
    fn tick(&mut self) {
        if self.session.give_up_reading(self.now) == Progress::Done {
            return self.finish();
        }
        match self.session.due(self.now, &SUPERVISION) {
            None => {}
            Some(OverdueAction::Terminate) => {
                let (now, long) = (self.now, self.below(2) == 0);
                let later = now + Duration::from_secs(u64::from(long));
                let _ = self.session.terminate(|_| Some(later), now);
            }
            Some(OverdueAction::Kill(reason)) => {
                let process = self.process.as_mut().unwrap();
                assert!(!process.killed, "seed {}: killed twice", self.seed);
                assert_eq!(reason == KillReason::Stopped, process.is_stopped);
                assert!(self.session.kill(Some(reason)) && !self.session.kill(Some(reason)));
                (process.killed, process.killed_for) = (true, Some(reason));
                self.reached.insert(reason.label());
                assert_eq!(self.session.due(self.now, &SUPERVISION), None, "due again");
            }
        }
    }

    fn signal(&mut self) {
        let Some(process) = self.process.as_mut() else { return };
        if process.is_reported && process.ended.is_none() {
            process.is_stopped = !process.is_stopped;
            match process.is_stopped {
                true => self.session.stopped(self.now),
                false => self.session.continued(),
            }
            assert!(process.killed || self.session.is_stopped() == process.is_stopped);
        }
    }

    fn step(&mut self) {
        let millis = self.below(400);
        self.now += Duration::from_millis(millis);
        self.start();
        self.tick();
        match self.below(100) {
            0..12 => self.started(),
            12..40 => self.act(),
            40..66 => self.read(),
            66..80 => self.group(),
            80..86 => self.ping(),
            86..88 => self.signal(),
            88 | 89 => self.die(End::Accident),
            90 if self.below(8) == 0 => self.die(End::Permanent),
            91..95 => self.report_exit(),
            95 => self.committed[0] += 1,
            96 => self.committed[1] += 1,
            97 if self.below(3) == 0 && self.session.recycle() => {
                self.reached.insert("recycled");
            }
            98 if self.below(30) == 0 => {
                self.session.drain();
                self.drained = true;
            }
            _ => {}
        }
        // A killed process exits. One whose socket was closed exits when it is idle.
        let process = self.process.as_ref();
        if process.is_some_and(|process| process.killed) && self.below(3) == 0 {
            self.die(End::Accident);
        }
        let is_drained = self.session.state() == State::Draining;
        if is_drained && self.session.groups().is_empty() && self.below(3) == 0 {
            self.session.hang_up();
            self.die(End::Requested);
        }
        self.check();
    }

    fn check(&self) {
        let (session, seed) = (&self.session, self.seed);
        let has_process = matches!(
            session.state(),
            State::Starting | State::Ready | State::Busy | State::Draining
        );
        assert_eq!(has_process, self.process.is_some(), "seed {seed}");
        let out: usize = self.out.values().map(Vec::len).sum();
        assert_eq!(session.groups().unanswered().count(), out, "seed {seed}");
        assert!(session.start_at().is_some() == (session.state() == State::Backoff));
        assert!(!session.is_idle() || session.state() == State::Ready, "seed {seed}");
        assert!(!session.is_nearly_idle() || session.state() == State::Busy, "seed {seed}");
    }

    /// Runs without further faults: in the end the worker serves, is given up or is stopped.
    fn settle(&mut self) {
        for _ in 0..200 {
            self.now += Duration::from_secs(1);
            self.start();
            self.tick();
            if self.process.as_ref().is_some_and(|process| process.is_stopped) {
                self.signal();
            }
            self.started();
            if self.process.as_ref().is_some_and(|process| process.killed) {
                self.die(End::Accident);
            }
            if self.session.state() == State::Draining {
                self.die(End::Requested);
            }
            (0..20).for_each(|_| self.act());
            (0..40).for_each(|_| self.read());
            self.report_exit();
            self.check();
        }
        let state = self.session.state();
        let serves = matches!(state, State::Ready | State::Busy);
        let ended = matches!(state, State::Failed | State::Stopped);
        assert!(serves || ended, "seed {}: ends up {state:?}", self.seed);
        assert!(!self.drained || ended, "seed {}", self.seed);
        self.reached.insert(if serves { "serves" } else { "given up" });
    }
}

#[test]
fn session_invariants_hold_in_any_event_order() {
    let mut reached = BTreeSet::new();
    let replayed = std::env::var("ONNXD_SIMULATION_SEED").ok().and_then(|seed| seed.parse().ok());
    for seed in replayed.map_or(0..SEEDS, |seed| seed..seed + 1) {
        let mut world = World::new(seed);
        (0..STEPS).for_each(|_| world.step());
        world.settle();
        reached.extend(world.reached);
    }
    let all = "ended, given up, group, hung, owed ping, recycled, serves, stopped";
    let reached: Vec<&str> = reached.into_iter().collect();
    assert!(replayed.is_some() || reached.join(", ") == all, "{reached:?}");
}
