//! Lease: the harness acts as a logic node that lies. Its *pretenders* open leases, claim slots, reserve seqs and write
//! entries under fences, straight at the stores; then they stop to renew, and go on writing as if nothing had happened.
//!
//! ```text
//!  one pretender    lease ─ claim e7 ─ reserve [40,90) ─ write 40 41 … ─ sleeps ─ 57 58 │ 59 refused, 60 refused …
//!  the other                                              lease ─ waits for the slot ───╯ claim e8 ─ reserve [90,…
//! ```
//! Two of them quarrel over each scope: a conversation that nobody else uses, in a slot of which their node is first
//! choice. What they are granted is a `lease` of the history, what they write a `commit`. Claims of others (real logic
//! nodes take slots too) are seen by their epochs, and written down as grants of nothing.
//!
//! It is no part of `mix`: who takes slots from those who serve leaves users without service, and rightly so.
//!
//! # Reading order
//! [`run`] → `court` (the node and its slots) → `pretender` → `scope`.

mod court;
mod pretender;
mod scope;

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::stage::Stage;
use super::stores::Stores;
use court::Court;

/// Between two tries of what did not work.
const PAUSE: Duration = Duration::from_millis(100);
/// Who quarrel over one scope.
const PRETENDERS: usize = 2;

/// Everything, until the run is over. A node that lost its lease begins anew, with other scopes.
pub(super) async fn run(stage: Arc<Stage>) {
    let stores = Arc::new(Stores::new(&stage.site.stores, &stage.site.links));
    let mut season = 0;
    while !stage.is_over() {
        let Some(court) = Court::open(&stage, &stores, season).await else {
            stage.rest(PAUSE).await;
            continue;
        };
        let court = Arc::new(court);
        let mut pretenders = JoinSet::new();
        for (place, scope) in court.scopes.iter().enumerate() {
            for number in 0..PRETENDERS {
                let place = place * PRETENDERS + number;
                pretenders.spawn(pretender::run(Arc::clone(&stage), Arc::clone(&court), Arc::clone(scope), place));
            }
        }
        court.govern(&stage).await;
        while pretenders.join_next().await.is_some() {}
        court.close().await;
        season += 1;
    }
}
