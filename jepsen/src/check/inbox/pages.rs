//! Pages: a page of sync holds all of what it covers, for ever.
//!
//! ```text
//!            from                      upto          tail
//!  timeline ──┼──●────●───────●─────────┼──●────●─────┼──▶
//!             └─ all of these, now and later          └─ all that there was, if the page says that there is no more
//! ```
//! # Invariants
//! I5 (links inside), I10 (nothing appears late), I12 (complete means complete), V1 (the tail never falls).

use super::records::{Inbox, Page, Records, Sight};
use super::timeline::Timeline;
use crate::check::order::{Placed, sweep};
use crate::check::rule::Rule;
use crate::check::verdict::Findings;

/// Judges all pages of a user.
pub(crate) fn check(records: &Records, user: u32, inbox: &Inbox, timeline: &Timeline, findings: &mut Findings) {
    for page in &inbox.pages {
        check_form(records, user, inbox, page, findings);
        check_cover(records, user, inbox, page, timeline, findings);
    }
    let tails =
        inbox.pages.iter().map(|page| Placed { place: (page.tail, 0), call: page.call, ret: page.ret, what: page });
    sweep(tails.collect(), |breach| {
        let (low, high) = (breach.low.what, breach.high.what);
        findings.add(Rule::V1, records.contents.names.text(user), low.ret, || {
            let text = format!("the tail of the inbox fell from {} to {}", high.tail, low.tail);
            (text, vec![records.page_evidence(user, high), records.page_evidence(user, low)])
        });
    });
}

/// What can be said of a page alone.
fn check_form(records: &Records, user: u32, inbox: &Inbox, page: &Page, findings: &mut Findings) {
    let sights = &inbox.sights[page.sights.clone()];
    let mut tell = |rule, text: String, sight: Option<&Sight>| {
        findings.add(rule, records.contents.names.text(user), page.ret, || {
            let sight = sight.map(|sight| records.evidence(user, sight));
            (text, sight.into_iter().chain([records.page_evidence(user, page)]).collect())
        });
    };
    if page.chain_broken {
        tell(Rule::I5, "the chain of a page does not verify".to_owned(), None);
    }
    if !page.more && page.upto < page.tail {
        tell(Rule::I12, format!("a page up to {} says no more, but the tail is {}", page.upto, page.tail), None);
    }
    if let Some(outside) = sights.iter().find(|sight| sight.seq < page.from || sight.seq >= page.upto) {
        tell(Rule::I12, format!("a page of [{}, {}) has seq {}", page.from, page.upto, outside.seq), Some(outside));
    }
    let mut before: Option<&Sight> = None;
    for sight in sights {
        let wrong = match before {
            Some(before) if sight.prev != before.seq || sight.seq <= before.seq => Some(format!(
                "in a page seq {} follows {} but names {} as before it",
                sight.seq, before.seq, sight.prev
            )),
            Some(_) => None,
            // What lies between the page's start and its first entry is missing.
            None if sight.prev >= page.start() && sight.prev > 0 => Some(format!(
                "a page from {} begins with seq {}, but {} is before it",
                page.from, sight.seq, sight.prev
            )),
            None => None,
        };
        if let Some(text) = wrong {
            tell(Rule::I5, text, Some(sight));
        }
        before = Some(sight);
    }
}

/// The page against all that was ever seen of this inbox.
fn check_cover(records: &Records, user: u32, inbox: &Inbox, page: &Page, timeline: &Timeline, findings: &mut Findings) {
    let key = records.contents.names.text(user);
    let covered = timeline.place(page.start())..timeline.place(page.upto).max(timeline.place(page.start()));
    let sights = &inbox.sights[page.sights.clone()];
    let mut given: Vec<u64> = sights.iter().map(|sight| sight.seq).collect();
    given.sort_unstable();
    given.dedup();
    if covered.len() > given.len() {
        let mut missing = timeline.entries[covered].iter().filter(|entry| given.binary_search(&entry.seq).is_err());
        if let Some(entry) = missing.next() {
            let is_late = entry.at >= page.call;
            let rule = if is_late { Rule::I10 } else { Rule::I12 };
            findings.add(rule, key, page.ret, || {
                let what = if is_late { "appeared below a page's upto" } else { "was there, and a page lacks it" };
                let others = missing.count();
                let text = format!("seq {} of {key} {what} ({others} others as well)", entry.seq);
                (text, vec![records.evidence(user, entry), records.page_evidence(user, page)])
            });
        }
    }
    // Nothing at or above upto had been seen before, if there was no more.
    let above = timeline.place(page.upto);
    if !page.more && timeline.seen_from.get(above).is_some_and(|seen| *seen < page.call) {
        let entry = timeline.entries[above..].iter().find(|entry| entry.at < page.call);
        if let Some(entry) = entry {
            findings.add(Rule::I12, key, page.ret, || {
                let text =
                    format!("a page says that there is no more from {} on, but seq {} was known", page.upto, entry.seq);
                (text, vec![records.evidence(user, entry), records.page_evidence(user, page)])
            });
        }
    }
}

/// Does the user's final sync cover his inbox from its start to its end, on one way at least?
pub(crate) fn is_final_complete(inbox: &Inbox) -> bool {
    let mut finals: Vec<&Page> = inbox.pages.iter().filter(|page| page.last).collect();
    finals.sort_by_key(|page| (page.proc, page.device, page.gateway, page.from));
    let ways =
        finals.chunk_by(|one, other| (one.proc, one.device, one.gateway) == (other.proc, other.device, other.gateway));
    ways.into_iter().any(|pages| {
        let start = pages[0].trim.max(1);
        let reached = pages.iter().fold(start, |reached, page| {
            // A hole between two pages is never bridged.
            if page.from <= reached { reached.max(page.upto) } else { reached }
        });
        pages.iter().any(|page| !page.more && page.upto == reached && page.from <= reached)
    })
}
