//! Pages: reads an inbox page by page, and proves each page by its chain.

use seriatim_client::{Client, RequestError, SyncPage, verify_page};
use seriatim_proto::ids::{Chain, Seq};

use super::device::Device;
use super::seen::{Place, seen};
use super::stage::Stage;
use crate::history::Seen;

/// Pages of one reading; more than any run fills.
const PAGES_MAX: u32 = 100_000;

/// Reads pages as one device.
pub(crate) struct Pages<'a> {
    pub(crate) stage: &'a Stage,
    pub(crate) client: &'a Client,
    pub(crate) device: &'a Device,
    pub(crate) process: u64,
}

/// How far it came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Read {
    pub(crate) upto: Seq,
}

impl Pages<'_> {
    /// Reads from `from` to the end.
    pub(crate) async fn read(&self, from: Seq, note: impl FnMut(Seen)) -> Result<Read, RequestError> {
        self.read_as(from, false, note).await
    }

    /// Reads all, for good: nothing is said or hurt any more.
    pub(crate) async fn read_last(&self, note: impl FnMut(Seen)) -> Result<Read, RequestError> {
        self.read_as(Seq::FIRST, true, note).await
    }

    async fn read_as(&self, from: Seq, last: bool, mut note: impl FnMut(Seen)) -> Result<Read, RequestError> {
        let mut at = from;
        // The chain at the last entry before the page: known before the first entry, and behind a page.
        let mut chain = (from == Seq::FIRST).then(Chain::default);
        for _ in 0..PAGES_MAX {
            let call = self.stage.clock.now();
            let page = self.client.sync(Some(at), 0).await?;
            let ret = self.stage.clock.now();
            let verified = chain.map(|chain| verify_page(&self.device.user, chain, &page).is_ok());
            note(self.record(at, &page, (call, ret), verified, last));
            chain = Some(page.chain);
            if !page.more {
                return Ok(Read { upto: at.max(page.upto) });
            }
            if page.upto <= at {
                let user = &self.device.user;
                self.stage.find(format!("I12: sync of {user} says that there is more, and does not get on from {at}"));
                return Ok(Read { upto: at });
            }
            at = page.upto;
        }
        Ok(Read { upto: at })
    }

    fn record(&self, from: Seq, page: &SyncPage, span: (u64, u64), verified: Option<bool>, last: bool) -> Seen {
        let user = &self.device.user;
        Seen::Page {
            proc: self.process,
            user: user.to_string(),
            device: self.device.name().to_owned(),
            gateway: self.device.gateway().to_owned(),
            call: span.0,
            ret: span.1,
            from: from.get(),
            upto: page.upto.get(),
            tail: page.tail.get(),
            trim: page.trim.get(),
            more: page.more,
            too_long: page.too_long,
            chain_verified: verified,
            last,
            entries: page.entries.iter().map(|entry| seen(entry, user, Place::Inbox)).collect(),
        }
    }
}
