//! Sessions: what a subscription yields is the inbox from where it began, in order, without a gap.
//!
//! An entry joins on if its predecessor is the one that came before it; the first joins on if nothing lies between it
//! and where the subscription began.
//!
//! # Invariants
//! V3. That pushed entries are the synced ones is V2, and follows from the one timeline.

use super::records::{Inbox, Records, Sight};
use crate::check::rule::Rule;
use crate::check::verdict::Findings;

/// Judges all subscriptions of a user.
pub(crate) fn check(records: &Records, user: u32, inbox: &Inbox, findings: &mut Findings) {
    let key = records.contents.names.text(user);
    for ((device, number), session) in &inbox.sessions {
        let mut before: Option<&Sight> = None;
        for sight in session.sights.iter().map(|place| &inbox.sights[*place]) {
            let joins = match before {
                Some(before) => sight.prev == before.seq && sight.seq > before.seq,
                None => sight.seq >= session.from && (sight.prev < session.from || sight.prev == 0),
            };
            if !joins {
                findings.add(Rule::V3, key, sight.at, || {
                    let device = records.contents.names.text(*device);
                    let position = before
                        .map_or_else(|| format!("from {}", session.from), |before| format!("behind {}", before.seq));
                    let text = format!(
                        "subscription {number} of {key}/{device} yields seq {} {position}, with {} before it",
                        sight.seq, sight.prev
                    );
                    let pair = before.into_iter().chain([sight]);
                    (text, pair.map(|sight| records.evidence(user, sight)).collect())
                });
            }
            before = Some(sight);
        }
    }
}
