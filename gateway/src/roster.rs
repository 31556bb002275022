//! Roster: which connections there are, for operators. A lock of its own, taken when one comes and when it goes, and for
//! a few hundred entries at a time when somebody looks: listing 20,000 sessions holds up no message.
//!
//! What changes in a session is not here: its own task is asked for it by letter ([`Entry::ask`]).

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use parking_lot::Mutex;
use seriatim_proto::operator::{SessionFilter, SessionLive, SessionOwner, WayIn};
use tokio::sync::oneshot;

use crate::mailbox::{Letter, Mailbox};
use crate::metrics::Transport;
use crate::transport::Line;

/// Entries that are taken under one hold of the lock.
const AT_ONCE: usize = 256;

/// All connections by their session's number.
pub(crate) struct Roster {
    /// Chosen by chance: the numbers begin anew at every start.
    pub(crate) incarnation: u16,
    entries: Mutex<BTreeMap<u64, Arc<Entry>>>,
    admitted: AtomicU64,
}

/// One connection.
pub(crate) struct Entry {
    pub(crate) number: u64,
    pub(crate) way: WayIn,
    pub(crate) transport: Transport,
    pub(crate) line: Line,
    pub(crate) begun: Instant,
    owner: OnceLock<SessionOwner>,
    mailbox: Arc<Mailbox>,
}

impl Roster {
    pub(crate) fn new() -> Self {
        Self { incarnation: rand::random(), entries: Mutex::default(), admitted: AtomicU64::new(0) }
    }

    /// A connection has come.
    pub(crate) fn enter(&self, number: u64, transport: Transport, line: Line, mailbox: Arc<Mailbox>) {
        let way = way_in(transport);
        let entry = Entry { number, way, transport, line, begun: Instant::now(), owner: OnceLock::new(), mailbox };
        self.entries.lock().insert(number, Arc::new(entry));
    }

    /// Its session is admitted.
    pub(crate) fn admit(&self, number: u64, owner: SessionOwner) {
        let entry = self.entries.lock().get(&number).cloned();
        if entry.is_some_and(|entry| entry.owner.set(owner).is_ok()) {
            self.admitted.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// It is gone.
    pub(crate) fn leave(&self, number: u64) {
        let entry = self.entries.lock().remove(&number);
        if entry.is_some_and(|entry| entry.owner.get().is_some()) {
            self.admitted.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Sessions behind Welcome.
    pub(crate) fn admitted(&self) -> u64 {
        self.admitted.load(Ordering::Relaxed)
    }

    /// A connection that is there.
    pub(crate) fn get(&self, number: u64) -> Option<Arc<Entry>> {
        self.entries.lock().get(&number).cloned()
    }

    /// The next `count` above `after` that the filter lets through, of the next `seen_max`; and above which number to
    /// go on, unless there are no more.
    pub(crate) fn page(
        &self,
        after: u64,
        count: usize,
        seen_max: usize,
        filter: &SessionFilter,
    ) -> (Vec<Arc<Entry>>, Option<u64>) {
        let mut found = Vec::new();
        let (mut after, mut seen) = (after, 0);
        loop {
            let entries: Vec<_> = {
                let entries = self.entries.lock();
                entries.range((Excluded(after), Unbounded)).take(AT_ONCE).map(|(_, entry)| entry.clone()).collect()
            };
            if entries.is_empty() {
                return (found, None);
            }
            for entry in entries {
                if found.len() >= count || seen >= seen_max {
                    return (found, Some(after));
                }
                after = entry.number;
                seen += 1;
                if entry.matches(filter) {
                    found.push(entry);
                }
            }
        }
    }
}

impl Entry {
    /// Whose it is, once it is admitted.
    pub(crate) fn owner(&self) -> Option<&SessionOwner> {
        self.owner.get()
    }

    /// Asks its task how it is; the answer does not come if the task is gone.
    pub(crate) fn ask(&self) -> oneshot::Receiver<SessionLive> {
        let (answer, live) = oneshot::channel();
        self.mailbox.put(Letter::Report(answer));
        live
    }

    /// Has its task end it.
    pub(crate) fn kick(&self) {
        self.mailbox.put(Letter::Kick);
    }

    fn matches(&self, filter: &SessionFilter) -> bool {
        let owner = self.owner.get();
        let of_owner = |wanted: bool, right: &dyn Fn(&SessionOwner) -> bool| !wanted || owner.is_some_and(right);
        filter.number.is_none_or(|number| number == self.number)
            && filter.way.is_none_or(|way| way == self.way)
            && of_owner(filter.tenant.is_some(), &|owner| filter.tenant == Some(owner.tenant))
            && of_owner(filter.user.is_some(), &|owner| filter.user.as_ref() == Some(&owner.user))
            && of_owner(filter.device.is_some(), &|owner| filter.device.as_ref() == Some(&owner.device))
    }
}

/// What operators call it.
pub(crate) fn way_in(transport: Transport) -> WayIn {
    match transport {
        Transport::Quic => WayIn::Quic,
        Transport::WebSocket => WayIn::WebSocket,
        Transport::WebTransport => WayIn::WebTransport,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Traffic;

    fn roster(count: u64) -> Roster {
        let roster = Roster::new();
        for number in 1..=count {
            let line = Line::tcp(([127, 0, 0, 1], 9).into(), &Traffic::default());
            let transport = if number % 2 == 0 { Transport::WebSocket } else { Transport::Quic };
            roster.enter(number, transport, line, Arc::default());
            let (user, device) = (format!("u{}", number % 10), "phone".to_owned());
            roster.admit(number, SessionOwner { tenant: 1, user, device });
        }
        roster
    }

    fn all(roster: &Roster, filter: &SessionFilter, (count, seen_max): (usize, usize)) -> (Vec<u64>, usize) {
        let (mut numbers, mut after, mut pages) = (Vec::new(), Some(0), 0);
        while let Some(from) = after {
            let (page, next) = roster.page(from, count, seen_max, filter);
            assert!(page.len() <= count && next.is_none_or(|next| next > from));
            numbers.extend(page.iter().map(|entry| entry.number));
            (after, pages) = (next, pages + 1);
        }
        (numbers, pages)
    }

    #[test]
    fn pages_together_have_every_session_once() {
        let roster = roster(1_000);
        let everybody: Vec<u64> = (1..=1_000).collect();
        assert_eq!(all(&roster, &SessionFilter::default(), (7, 5_000)).0, everybody);
        assert_eq!(all(&roster, &SessionFilter::default(), (1_000, 5_000)).0, everybody);
        // A look is bounded also where next to nothing is found.
        let of = SessionFilter { number: Some(999), ..SessionFilter::default() };
        let (found, pages) = all(&roster, &of, (5, 100));
        assert!(found == [999] && pages >= 10, "{found:?} in {pages} pages");
    }

    #[test]
    fn all_filters_that_are_set_must_hold() {
        let roster = roster(100);
        let user = Some("u3".to_owned());
        let of_user = SessionFilter { user: user.clone(), ..SessionFilter::default() };
        assert_eq!(all(&roster, &of_user, (9, 50)).0, (0..10).map(|ten| ten * 10 + 3).collect::<Vec<u64>>());
        let none = SessionFilter { user, way: Some(WayIn::WebSocket), ..SessionFilter::default() };
        assert_eq!(all(&roster, &none, (9, 50)).0, Vec::<u64>::new());
        let tenant = SessionFilter { tenant: Some(2), ..SessionFilter::default() };
        assert_eq!(all(&roster, &tenant, (9, 50)).0, Vec::<u64>::new());
    }

    #[test]
    fn only_admitted_sessions_have_an_owner_and_are_counted() {
        let roster = roster(2);
        roster.enter(3, Transport::Quic, Line::tcp(([127, 0, 0, 1], 9).into(), &Traffic::default()), Arc::default());
        assert_eq!(roster.admitted(), 2);
        let phones = SessionFilter { device: Some("phone".to_owned()), ..SessionFilter::default() };
        assert_eq!(all(&roster, &phones, (9, 50)).0, [1, 2]);
        (1..=3).for_each(|number| roster.leave(number));
        assert_eq!((roster.admitted(), all(&roster, &SessionFilter::default(), (9, 50)).0), (0, vec![]));
    }
}
