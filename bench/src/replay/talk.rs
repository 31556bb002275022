//! Talk: one conversation from its first message to its last.

use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;
use futures_util::future::join_all;
use parking_lot::Mutex;
use seriatim_client::{Committed, Conversation, RequestError, SendRequest};
use seriatim_proto::ids::{ConversationId, ConversationKey, UserId};

use super::ledger::Ledger;
use super::pace::Pace;
use super::people::{Person, Setup};
use crate::record::{Recorder, Sent};
use crate::script::{Script, Talk};

/// Messages of one turn that are under way at the same time.
pub(crate) const PIPELINE: usize = 16;

/// What all talks share.
pub(crate) struct Stage {
    pub(crate) script: Arc<Script>,
    pub(crate) people: Vec<Person>,
    pub(crate) setup: Setup,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) pace: Pace,
    pub(crate) sends: Mutex<Recorder>,
}

impl Stage {
    /// Says everything, in order. A message that is refused ends the talk: what comes behind it must not overtake it.
    pub(crate) async fn speak(&self, talk: usize) -> anyhow::Result<()> {
        let talk = &self.script.talks[talk];
        if let ConversationId::Group(key) = &talk.id {
            self.create(talk, *key).await?;
        }
        let mut line = 0;
        while line < talk.lines.len() {
            let turn = talk.turn(line, PIPELINE);
            self.turn(talk, line, turn).await.with_context(|| format!("{} ended at line {line}", talk.name))?;
            line += turn;
        }
        Ok(())
    }

    /// Messages of one sender, pipelined; returns when all are acked.
    async fn turn(&self, talk: &Talk, first: usize, count: usize) -> anyhow::Result<()> {
        let sender = talk.lines[first].sender;
        let phone = self.people[sender].phone(&self.setup).await?;
        let conversation = self.conversation(talk, &self.people[sender].user);
        let waited = talk.members.iter().any(|member| !self.people[*member].is_online());
        let mut tickets = Vec::with_capacity(count);
        for line in first..first + count {
            self.pace.turn().await;
            let id = talk.message_id(line);
            let body = Bytes::copy_from_slice(talk.lines[line].body.as_bytes());
            let request = SendRequest { message_id: id, ..SendRequest::new(conversation.clone(), body) };
            self.ledger.sent(&id, waited);
            let ticket = phone.client.submit(request).await?;
            let ledger = Arc::clone(&self.ledger);
            // A task of its own: the ack counts when it is there, not when the rest of the turn has had its moment.
            tickets.push(tokio::spawn(async move {
                let result: Result<Committed, RequestError> = ticket.outcome().await;
                if result.is_ok() {
                    ledger.committed(&id);
                }
                (id, result)
            }));
        }
        let mut failed = None;
        for acked in join_all(tickets).await {
            let (id, result) = acked.context("a send's task ended")?;
            let (committed, error) = match result {
                Ok(committed) => (Some(committed.seq.get()), None),
                Err(error) => (None, Some(error)),
            };
            let text = error.as_ref().map(ToString::to_string);
            self.sends.lock().push(&Sent { message_id: id.to_string(), committed, error: text })?;
            failed = failed.or(error);
        }
        failed.map_or(Ok(()), |error| Err(error.into()))
    }

    async fn create(&self, talk: &Talk, key: ConversationKey) -> anyhow::Result<()> {
        let creator = talk.lines[0].sender;
        let others = talk.members.iter().filter(|member| **member != creator);
        let members: Vec<UserId> = others.map(|member| self.people[*member].user.clone()).collect();
        let phone = self.people[creator].phone(&self.setup).await?;
        self.pace.turn().await;
        let created = phone.client.create_group_as(talk.create_id(), key, &members).await;
        created.with_context(|| format!("failed to create the group of {}", talk.name))?;
        Ok(())
    }

    fn conversation(&self, talk: &Talk, user: &UserId) -> Conversation {
        match &talk.id {
            ConversationId::Group(key) => Conversation::Group(*key),
            id @ ConversationId::Direct(..) => Conversation::Peer(id.peer_of(user).unwrap_or(user).clone()),
        }
    }
}
