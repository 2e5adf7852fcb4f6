//! Final checks after all clients have stopped. I6: client and server counts agree. I7: no resource
//! leaks. Also: every worker exit was caused by the soak, or by the server because the worker hung.

use std::{collections::BTreeMap, time::Duration};

use e2e::exposition::{Exposition, Labels};

use crate::{ledger::Ledger, models::SPARE, resources::Resources, world::World};

/// By this time, the server has closed abandoned connections and idle threads have exited.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// The server's counters that the soak compares.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ServerCounters {
    /// By route and status.
    requests: BTreeMap<(String, u16), u64>,
    commits: u64,
    rollbacks: u64,
    /// By reason.
    pub restarts: BTreeMap<String, u64>,
    /// Workers that the server killed, by reason.
    pub killed: BTreeMap<String, u64>,
}

impl ServerCounters {
    /// Reads the counters from `/metrics`.
    pub(crate) async fn now(world: &World) -> Result<Self, String> {
        let answer = world.server.client().await.get("/metrics").await;
        let text = answer.map_err(|error| error.to_string())?.text();
        let text = Exposition::parse(&text)?;
        let samples = |name: &str| -> Vec<(Labels, u64)> {
            let samples = text.family(name).samples.iter();
            samples.map(|((_, labels), value)| (labels.clone(), whole(*value))).collect()
        };
        let label = |labels: &Labels, name: &str| labels.get(name).cloned().unwrap_or_default();
        let only = |name: &str| samples(name).first().map_or(0, |(_, count)| *count);
        let by_reason = |name: &str| {
            let all = samples(name).into_iter();
            all.map(|(labels, count)| (label(&labels, "reason"), count)).collect()
        };
        Ok(Self {
            requests: samples("onnxd_requests_total")
                .into_iter()
                .map(|(labels, count)| {
                    let code = label(&labels, "code").parse().unwrap_or_default();
                    ((label(&labels, "route"), code), count)
                })
                .collect(),
            commits: only("onnxd_commits_total"),
            rollbacks: only("onnxd_automatic_rollbacks_total"),
            restarts: by_reason("onnxd_worker_restarts_total"),
            killed: by_reason("onnxd_workers_killed_total"),
        })
    }

    /// Returns the increase since `before`.
    pub(crate) fn since(mut self, before: &Self) -> Self {
        for (key, count) in &mut self.requests {
            *count -= before.requests.get(key).copied().unwrap_or_default();
        }
        self.commits -= before.commits;
        self.rollbacks -= before.rollbacks;
        self
    }

    /// I6: the server counted every answer that a client received, under the same status. Every
    /// other answer it counted belongs to a client that disconnected.
    pub(crate) fn against(&self, ledger: &Ledger) -> Vec<String> {
        let mut wrong = Vec::new();
        for (&(route, status), &seen) in &ledger.counts {
            let counted = self.requests.get(&(route.to_owned(), status)).copied().unwrap_or(0);
            if counted < seen {
                wrong.push(format!(
                    "I6: {route} {status}: {seen} received, server counted {counted}"
                ));
            }
        }
        let routes: std::collections::BTreeSet<&str> =
            ledger.counts.keys().map(|(route, _)| *route).collect();
        for route in routes {
            let seen: u64 =
                ledger.counts.iter().filter(|((name, _), _)| *name == route).map(|(_, n)| n).sum();
            let counted: u64 =
                self.requests.iter().filter(|((name, _), _)| name == route).map(|(_, n)| n).sum();
            let unknown = ledger.unknown.get(route).copied().unwrap_or_default();
            if counted > seen + unknown {
                wrong.push(format!(
                    "I6: {route}: {seen} received, {unknown} abandoned, server counted {counted}"
                ));
            }
        }
        wrong
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
fn whole(value: f64) -> u64 {
    value as u64
}

/// Waits until the server is idle again and reports what it leaked.
pub(crate) async fn wait_until_idle(world: &World, before: &Resources) -> Resources {
    let start = world.now();
    loop {
        // Do not wait for loads: a client's last request may have loaded a model lazily, and without
        // another request the other workers never follow.
        world.server.fully_staffed().await;
        let mut now = Resources::now(&world.server);
        now.left.retain(|name| !is_kept(world, name));
        let above = now.above(before);
        if above.is_empty() || world.now() - start > IDLE_TIMEOUT {
            above.iter().for_each(|what| world.violated(&format!("I7: {what}")));
            return now;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Returns whether an entry of the state directory is a recently served version.
fn is_kept(world: &World, name: &str) -> bool {
    let mut parts = name.splitn(3, '/');
    let (folder, version) = (parts.next(), parts.next().unwrap_or_default());
    // The fetcher's notes about a source.
    if folder == Some("downloads") && world.options.sources {
        return true;
    }
    let known = || world.versions.values().flatten().any(|known| known == version);
    matches!(folder, Some("versions" | "compiled"))
        && parts.next().is_none()
        && (world.ledger().recently_served(version) || known())
}

/// Compares the counters of server and clients.
pub(crate) async fn counts(world: &World, before: &ServerCounters) -> ServerCounters {
    let counted = match ServerCounters::now(world).await {
        Ok(counted) => counted.since(before),
        Err(error) => {
            world.violated(&format!("metrics: {error}"));
            return ServerCounters::default();
        }
    };
    let mut ledger = world.ledger();
    for wrong in counted.against(&ledger) {
        ledger.violated(wrong);
    }
    deaths(&mut ledger, &counted);
    let (hangups, rollbacks) = (ledger.event_counts().hangups, counted.rollbacks);
    ledger.finish(|model| hangups + rollbacks + u64::from(model == SPARE.name));
    let (unrequested, committed) = (ledger.unrequested(), ledger.committed);
    if unrequested + committed > counted.commits {
        let commits = counted.commits;
        ledger.violated(format!(
            "{committed} requested and {unrequested} other generations, but {commits} commits"
        ));
    }
    counted
}

/// Checks that every worker exit was caused by the soak, or by the server because the worker hung,
/// and that every worker was restarted. The server kills all workers stopped for good. It also
/// kills some that were stopped briefly when their work became overdue, and on an overloaded
/// machine some that respond too late.
fn deaths(ledger: &mut Ledger, counted: &ServerCounters) {
    let (kills, crashes, hangs) = (ledger.kills, ledger.crashes, ledger.hangs);
    let killed = |reason: &str| counted.killed.get(reason).copied().unwrap_or_default();
    let (stopped, hung) = (killed("stopped"), killed("hung"));
    let may_be = hangs..=hangs + ledger.stops;
    if !may_be.contains(&stopped) {
        ledger.violated(format!("{stopped} stopped workers were replaced, expected {may_be:?}"));
    }
    for (reason, &count) in &counted.restarts {
        let expected = match reason.as_str() {
            // A worker that the server is about to kill may be killed by the soak first.
            "killed" => kills + hangs..=kills + stopped.max(hangs) + hung,
            "signal" => crashes..=crashes,
            _ => 0..=0,
        };
        if !expected.contains(&count) {
            ledger.violated(format!(
                "{count} workers exited with reason {reason}, expected {expected:?}"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(answers: u64, killed: u64) -> ServerCounters {
        ServerCounters {
            requests: BTreeMap::from([(("/embed".to_owned(), 200), answers)]),
            restarts: BTreeMap::from([("killed".to_owned(), killed), ("exited".to_owned(), 0)]),
            ..ServerCounters::default()
        }
    }

    #[test]
    fn server_counts_match_received_and_abandoned_answers() {
        let mut ledger = Ledger::new(std::iter::empty());
        for _ in 0..10 {
            ledger.count("/embed", 200);
        }
        assert_eq!(counted(10, 0).against(&ledger), [""; 0]);
        assert_eq!(counted(9, 0).against(&ledger).len(), 1, "one answer missing");
        assert_eq!(counted(11, 0).against(&ledger).len(), 1, "one counted twice");
        ledger.unknown.insert("/embed", 1);
        assert_eq!(counted(11, 0).against(&ledger), [""; 0]);
        assert_eq!(counted(12, 0).against(&ledger).len(), 1);
        ledger.count("/embed", 500);
        assert_eq!(counted(11, 0).against(&ledger).len(), 1, "counted under another status");
    }

    #[test]
    fn an_unexplained_worker_exit_is_found() {
        let violations = |counted: &ServerCounters| {
            let mut ledger = Ledger::new(std::iter::empty());
            (ledger.kills, ledger.hangs) = (3, 1);
            deaths(&mut ledger, counted);
            ledger.violations_seen
        };
        let with = |stopped, hung| {
            let killed = [("stopped".to_owned(), stopped), ("hung".to_owned(), hung)];
            move |count| ServerCounters {
                killed: BTreeMap::from(killed.clone()),
                ..counted(0, count)
            }
        };
        assert_eq!(violations(&with(1, 0)(4)), 0);
        assert_eq!(violations(&with(1, 0)(5)), 1, "one exit too many");
        assert_eq!(violations(&with(1, 0)(3)), 1, "one was not restarted");
        assert_eq!(violations(&with(1, 1)(5)), 0, "one hung");
        assert_eq!(violations(&with(0, 0)(4)), 1, "a stopped worker was not replaced");
        assert_eq!(violations(&with(2, 0)(4)), 1, "a resumed worker was replaced");
        let mut ledger = Ledger::new(std::iter::empty());
        (ledger.kills, ledger.hangs, ledger.stops) = (3, 1, 1);
        deaths(&mut ledger, &with(2, 0)(5));
        assert_eq!(ledger.violations_seen, 0, "one was stopped with overdue work");
        let mut exited = with(1, 0)(4);
        exited.restarts.insert("exited".into(), 1);
        assert_eq!(violations(&exited), 1);
    }
}
