//! Reloads that clients of the system account ask for: whoever runs the broker knows where its configuration is.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};

/// How long who asks waits for a reload to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// Somebody wants the configuration to be read again, and waits to hear what came of it.
#[derive(Debug)]
pub struct ReloadRequest(oneshot::Sender<Result<(), String>>);

impl ReloadRequest {
    /// Says what came of it: an error is told as it is.
    pub fn done(self, outcome: Result<(), String>) {
        // Who asked may have lost patience.
        drop(self.0.send(outcome));
    }
}

/// The one reload that may be asked for at a time.
#[derive(Debug, Default)]
pub(crate) struct Reloads {
    asked: Mutex<Option<ReloadRequest>>,
    arrived: Notify,
}

impl Reloads {
    /// Asks for a reload, and gives what came of it.
    pub(crate) async fn ask(&self) -> Result<(), String> {
        let (answer, answered) = oneshot::channel();
        {
            let mut asked = self.lock();
            if asked.is_some() {
                return Err("a reload is under way".to_owned());
            }
            *asked = Some(ReloadRequest(answer));
        }
        self.arrived.notify_one();
        let outcome = tokio::time::timeout(PATIENCE, answered).await;
        if outcome.is_err() {
            // Nobody has taken it, or it goes on.
            drop(self.lock().take());
        }
        outcome
            .map_err(|_| "the reload did not end in time".to_owned())?
            .map_err(|_| "the server is shutting down".to_owned())?
    }

    /// The next reload that is asked for.
    pub(crate) async fn next(&self) -> ReloadRequest {
        loop {
            if let Some(request) = self.lock().take() {
                return request;
            }
            self.arrived.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<ReloadRequest>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_asks_hears_what_came_of_it() {
        let reloads = Reloads::default();
        let serve = async {
            reloads.next().await.done(Err("port".to_owned()));
            reloads.next().await.done(Ok(()));
        };
        let ask = async { (reloads.ask().await, reloads.ask().await) };
        assert_eq!(tokio::join!(ask, serve).0, (Err("port".to_owned()), Ok(())));
        let (first, second) = tokio::join!(reloads.ask(), reloads.ask());
        assert_eq!(first, Err("the reload did not end in time".to_owned()));
        assert_eq!(second, Err("a reload is under way".to_owned()));
        assert!(reloads.lock().is_none());
    }
}
