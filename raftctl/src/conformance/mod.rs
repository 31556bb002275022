//! Conformance: the numbered claims of docs/conformance.md, asked of a gateway over the wire.
//!
//! The page owns the list: numbers, claims and who is judged come from its text. Here is what is asked for each of
//! them that judges a gateway; a test fails if a number has no case, or a case no number. Cases use frames and bytes,
//! and nothing of the SDK's behaviour.
//!
//! # Reading order
//! [`claims`] → [`CASES`] → `scene` (users and tokens) → `peer` (a connection) → the cases.

mod amending;
mod bytes;
mod groups;
mod marks;
mod numbers;
mod peer;
mod receiving;
mod renewal;
mod scene;
mod sending;
mod session;

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;

pub(crate) use scene::{Knock, Scene, Site, Tokens};

/// The page.
const PAGE: &str = include_str!("../../../docs/conformance.md");

/// Whom a claim judges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judges {
    Gateway,
    Sdk,
    Both,
}

impl Judges {
    fn parse(word: &str) -> Option<Self> {
        match word {
            "gateway" => Some(Self::Gateway),
            "SDK" => Some(Self::Sdk),
            "both" => Some(Self::Both),
            _ => None,
        }
    }

    /// As the page says it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Sdk => "SDK",
            Self::Both => "both",
        }
    }

    /// Is a gateway judged?
    pub(crate) fn is_gateway(self) -> bool {
        self != Self::Sdk
    }
}

/// A row of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    /// `C-014`
    pub(crate) number: &'static str,
    pub(crate) judges: Judges,
    pub(crate) text: &'static str,
}

/// All rows of the page, by number.
pub(crate) fn claims() -> Vec<Claim> {
    let rows = PAGE.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| ")?.splitn(3, " | ");
        let (number, judges, text) = (cells.next()?, cells.next()?, cells.next()?);
        let judges = Judges::parse(judges).filter(|_| number.starts_with("C-"))?;
        Some(Claim { number, judges, text: text.trim_end_matches('|').trim_end() })
    });
    let mut claims: Vec<Claim> = rows.collect();
    claims.sort_by_key(|claim| claim.number);
    claims
}

/// Why a case did not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// What was expected, and what came.
    Failed(String),
    /// Why it was not asked.
    Skipped(String),
}

/// What a case, or a step of it, comes to.
pub(crate) type Outcome<T = ()> = Result<T, End>;

/// Longest text of what came: a page of entries says no more than its beginning.
const CAME_CHARS_MAX: usize = 400;

fn fail<T>(words: impl AsRef<str>) -> Outcome<T> {
    Err(End::Failed(shortened(words.as_ref())))
}

fn shortened(words: &str) -> String {
    match words.char_indices().nth(CAME_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &words[..end]),
        None => words.to_owned(),
    }
}

/// `what` came as it should.
fn same<T: PartialEq + Debug>(what: &str, came: T, expected: T) -> Outcome {
    if came == expected {
        return Ok(());
    }
    let (expected, came) = (shortened(&format!("{expected:?}")), shortened(&format!("{came:?}")));
    Err(End::Failed(format!("{what}: expected {expected}, came {came}")))
}

/// `expected` is true of what came.
fn ensure(truth: bool, expected: &str, came: impl Debug) -> Outcome {
    if truth { Ok(()) } else { fail(format!("expected {expected}, came {came:?}")) }
}

type Running<'a> = Pin<Box<dyn Future<Output = Outcome> + 'a>>;

/// What is asked for a claim.
pub(crate) struct Case {
    /// of the page
    pub(crate) number: &'static str,
    run: for<'a> fn(&'a Scene<'a>) -> Running<'a>,
}

impl Case {
    /// Asks.
    pub(crate) async fn run(&self, scene: &Scene<'_>) -> Outcome {
        (self.run)(scene).await
    }
}

macro_rules! cases {
    ($($number:literal => $case:path,)*) => {
        /// Every claim that judges a gateway.
        pub(crate) const CASES: &[Case] =
            &[$(Case { number: $number, run: |scene| Box::pin($case(scene)) },)*];
    };
}

cases! {
    "C-001" => bytes::vectors_are_read,
    "C-002" => bytes::hash_and_chain_follow_from_what_was_sent,
    "C-003" => bytes::cuts_do_not_matter,
    "C-004" => bytes::lengths_and_noise_are_refused,
    "C-005" => bytes::what_is_not_known_is_a_frame,
    "C-006" => bytes::changed_pages_do_not_prove_themselves,
    "C-010" => session::a_good_token_is_welcome,
    "C-011" => session::bad_tokens_are_refused,
    "C-012" => session::an_expired_token_is_refused,
    "C-013" => session::no_version_in_common,
    "C-014" => session::ping_is_answered,
    "C-015" => session::the_end_of_the_control_stream,
    "C-016" => session::frames_on_a_stream_that_is_not_theirs,
    "C-017" => session::bytes_that_are_no_frame,
    "C-018" => session::a_frame_that_is_not_known,
    "C-019" => session::a_lane_too_many,
    "C-020" => sending::a_send_has_a_place,
    "C-021" => sending::the_same_again_is_a_duplicate,
    "C-022" => sending::another_body_is_a_conflict,
    "C-023" => sending::the_largest_body_and_one_byte_more,
    "C-024" => sending::pipelined_sends_keep_their_order,
    "C-025" => sending::one_that_is_too_early,
    "C-026" => sending::a_send_can_be_asked_for,
    "C-027" => sending::a_cancelled_send_never_happens,
    "C-028" => sending::a_committed_message_cannot_be_cancelled,
    "C-029" => sending::fields_out_of_their_range,
    "C-030" => groups::a_group_is_created,
    "C-031" => groups::a_message_comes_to_all_members,
    "C-032" => groups::members_come_and_go,
    "C-033" => groups::a_stranger_learns_nothing,
    "C-040" => receiving::every_entry_once_in_order,
    "C-041" => receiving::from_the_middle,
    "C-042" => receiving::credit,
    "C-043" => receiving::one_subscription,
    "C-044" => receiving::a_position_in_the_future,
    "C-045" => receiving::two_devices,
    "C-046" => receiving::cursors,
    "C-047" => receiving::pages,
    "C-048" => receiving::the_chain_of_all_pages,
    "C-049" => receiving::history_and_status,
    "C-050" => numbers::runs_never_overlap,
    "C-051" => numbers::current_is_above_all,
    "C-052" => numbers::too_many_and_no_scope,
    "C-080" => amending::amendments_come_in_order,
    "C-081" => amending::the_chain_binds_what_they_say,
    "C-082" => amending::nobody_is_given_what_was_recalled,
    "C-083" => amending::who_may_amend_what,
    "C-084" => amending::an_amendment_is_settled_like_a_send,
    "C-085" => amending::amendments_and_messages_keep_their_order,
    "C-087" => amending::fields_out_of_their_range,
    "C-090" => marks::a_mark_is_the_users_own,
    "C-091" => marks::a_read_mark_only_rises,
    "C-092" => marks::a_list_in_pages,
    "C-100" => renewal::a_renewed_session_outlives_its_first_token,
    "C-101" => renewal::a_refused_renewal_does_no_harm,
    "C-102" => renewal::the_scopes_of_the_new_token_hold,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_claim_about_a_gateway_has_a_case_and_every_case_a_claim() {
        let judged: Vec<_> =
            claims().iter().filter(|claim| claim.judges.is_gateway()).map(|claim| claim.number).collect();
        let cases: Vec<_> = CASES.iter().map(|case| case.number).collect();
        assert_eq!(cases, judged, "docs/conformance.md and CASES name different claims, or in another order");
    }

    #[test]
    fn no_row_of_the_page_is_left_out() {
        let rows = PAGE.lines().filter(|line| line.starts_with("| C-")).count();
        let claims = claims();
        assert_eq!(claims.len(), rows, "a row that says nobody whom it judges, or in another form");
        assert!(claims.windows(2).all(|pair| pair[0].number < pair[1].number), "a number twice");
        assert!(claims.iter().all(|claim| claim.number.len() == 5 && claim.text.ends_with('.')), "{claims:?}");
    }

    #[test]
    fn what_came_is_told_but_not_all_of_it() {
        assert_eq!(same("the nonce", 1, 2), Err(End::Failed("the nonce: expected 2, came 1".to_owned())));
        let Err(End::Failed(words)) = same("the body", "é".repeat(10_000), String::new()) else { panic!("the same") };
        assert!(words.len() < 1_000 && words.ends_with('…'), "{words}");
    }
}
