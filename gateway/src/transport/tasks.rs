//! Tasks: those of the connections, so that none outlives its gateway.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::task::JoinSet;

/// Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Tasks(Arc<Mutex<JoinSet<()>>>);

impl Tasks {
    /// Runs one connection.
    pub(crate) fn spawn(&self, connection: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.0.lock();
        // Those that are over are forgotten; one that panicked has said so.
        while tasks.try_join_next().is_some() {}
        tasks.spawn(connection);
    }

    /// Ends those that still run, whatever they wait for, and waits until they have.
    pub(crate) async fn end(&self) {
        let mut tasks = std::mem::take(&mut *self.0.lock());
        tasks.shutdown().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn none_is_left_at_the_end() {
        let (tasks, alive) = (Tasks::default(), Arc::new(()));
        for _ in 0..3 {
            let alive = alive.clone();
            tasks.spawn(async move {
                let _alive = alive;
                std::future::pending().await
            });
        }
        tasks.spawn(std::future::ready(()));
        tasks.end().await;
        assert_eq!(Arc::strong_count(&alive), 1);
    }
}
