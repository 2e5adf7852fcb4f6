//! Ends a server: the delay of `--shutdown-delay`, the drain, and what ends either early. Called by [`crate::serve`].

use std::{pin::pin, time::Duration};

use onnxd_engine::dispatch::Event;
use onnxd_proto::exit::{ExitStatus, Failure};
use tokio::time;

use super::{Exit, Server, dispatcher_ended, ended, failure};
use crate::{
    config::Config,
    process::{
        signals::{Action, Signals},
        systemd,
    },
};

/// How long workers may take to exit, or to be killed.
const WORKERS_STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long calls that need the collections may go on after all connections are closed.
const CALLS_END_TIMEOUT: Duration = Duration::from_secs(5);
/// After this time, handlers have seen all requests that a predecessor has read.
const LAST_REQUESTS: Duration = Duration::from_millis(200);
/// Time that systemd gives beyond the delay and the drain, for workers, spans and files of updates.
const CLEAN_UP_MARGIN: Duration = Duration::from_secs(15);

impl Server {
    /// Waits until all workers have failed for good, or an essential task ends.
    pub(super) async fn failed(&self) -> Failure {
        let mut health = self.health.clone();
        tokio::select! {
            health = health.wait_for(|health| health.fatal.is_some()) => {
                let fatal = health.ok().and_then(|health| health.fatal.clone());
                fatal.map_or_else(dispatcher_ended, failure)
            }
            failure = ended(&self.tasks) => failure,
        }
    }

    /// Ends the server: after `--shutdown-delay` if a signal stopped it, and after a drain.
    ///
    /// # Errors
    /// The server failed before or during the delay.
    pub(super) async fn stop(
        self,
        mut outcome: Result<Exit, Failure>,
        config: &Config,
        signals: &mut Signals,
    ) -> Result<ExitStatus, Failure> {
        let is_delayed = matches!(outcome, Ok(Exit::Stopped)) && self.serves_a_model();
        let delay = if is_delayed { config.shutdown_delay } else { Duration::ZERO };
        if !matches!(outcome, Ok(Exit::HandedOver(_))) {
            systemd::stopping(delay + config.drain_timeout + CLEAN_UP_MARGIN);
        }
        if !delay.is_zero() {
            outcome = self.stop_later(delay, signals).await.map(|()| Exit::Stopped);
        }
        let successor = match &outcome {
            Ok(Exit::HandedOver(successor)) => Some(successor),
            _ => None,
        };
        let mut drain = pin!(self.drain(successor.is_some()));
        loop {
            tokio::select! {
                () = drain.as_mut() => break,
                request = signals.next() => match (request, successor) {
                    (Action::Stop, _) => {
                        tracing::warn!("received a stop signal while draining, exiting immediately");
                        break;
                    }
                    (Action::Reload, Some(successor)) => successor.hang_up(),
                    (Action::Reload | Action::HandOver, _) => {}
                }
            }
        }
        outcome.map(|_| ExitStatus::Success)
    }

    /// Returns whether requests may be in flight.
    fn serves_a_model(&self) -> bool {
        self.engine.models().iter().any(|model| model.serving().is_some())
    }

    /// Goes on serving, but is not ready, until `delay` is over or a second signal arrives.
    ///
    /// # Errors
    /// The server failed, so there is nothing to wait for.
    async fn stop_later(&self, delay: Duration, signals: &mut Signals) -> Result<(), Failure> {
        tracing::info!(
            seconds = delay.as_secs(),
            "stopping after --shutdown-delay, still accepting requests"
        );
        self.engine.close();
        tokio::select! {
            () = time::sleep(delay) => Ok(()),
            failure = self.failed() => Err(failure),
            () = signals.stop() => {
                tracing::warn!("received a stop signal during --shutdown-delay, draining now");
                Ok(())
            }
        }
    }

    /// Finishes accepted requests, then stops the workers.
    async fn drain(mut self, handed_over: bool) {
        tracing::info!("draining");
        self.tasks.stopping();
        if !handed_over {
            self.updater.stop();
        }
        // The duplicates would keep the sockets open, and clients would connect without getting a
        // response.
        self.successor_descriptors.clear();
        self.stop_accepting.send_replace(true);
        let listeners = async {
            // Each ends within the drain timeout.
            for listener in self.listeners {
                let _ = listener.await;
            }
        };
        let collections = self.collections.take();
        let release = async {
            if let Some(collections) = collections {
                collections.release().await;
            }
        };
        if handed_over {
            // The successor's searches wait for the collections. Listeners end last: bodies of requests
            // may arrive slowly.
            let early = async {
                time::sleep(LAST_REQUESTS).await;
                release.await;
            };
            let (mut listeners, mut early) = (pin!(listeners), pin!(early));
            tokio::select! {
                () = &mut early => listeners.await,
                () = &mut listeners => leave_collections(early).await,
            }
        } else {
            listeners.await;
            leave_collections(release).await;
        }
        self.admin.abort();
        // Removes the socket before the workers exit. They remove it if the supervisor dies.
        let _ = (&mut self.admin).await;
        let _ = self.events.send(Event::Drain).await;
        let stopped = self.health.wait_for(|health| health.stopped || health.fatal.is_some());
        if time::timeout(WORKERS_STOP_TIMEOUT, stopped).await.is_err() {
            tracing::error!("workers did not stop in time");
        }
        if let Some(exporter) = self.exporter {
            exporter.stop().await;
        }
        tracing::info!("stopped");
    }
}

/// Ends the process that owns the collections once all calls that need it have ended, which they do
/// soon: their connections are closed.
async fn leave_collections(release: impl Future<Output = ()>) {
    if time::timeout(CALLS_END_TIMEOUT, release).await.is_err() {
        tracing::error!("calls that need the collections did not end in time");
    }
}
