//! Sabotage: the known bugs of replication, for test builds only (`seriatim_proto::chaos`).

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use openraft::Raft;
use openraft::raft::AppendEntriesRequest;
use openraft::storage::RaftStateMachine;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::codec::LogIdRow;
use super::incoming::{AnswerTo, appended};
use super::types::TypeConfig;
use crate::transport::Response;

/// How long what was answered is nowhere.
const NOWHERE: Duration = Duration::from_millis(50);

/// As `serve_appends`, but answers entries before they are appended.
pub(super) async fn serve_appends_too_early<M>(
    raft: Raft<TypeConfig, M>,
    input: mpsc::Receiver<AppendEntriesRequest<TypeConfig>>,
    answer: AnswerTo,
) where
    M: RaftStateMachine<TypeConfig>,
{
    let answered = Arc::new(Mutex::new(VecDeque::new()));
    let early = (Arc::clone(&answered), answer.clone());
    let mut is_first = true;
    let input = ReceiverStream::new(input).then(move |request| {
        let (answered, answer) = early.clone();
        // The first of a session finds out where the logs part.
        let last = request.entries.last().map(|entry| entry.log_id).filter(|_| !is_first);
        is_first = false;
        async move {
            answered.lock().push_back(last.is_some());
            if let Some(last) = last {
                answer.send(Response::Appended(Some(LogIdRow::from(last)))).await;
                tokio::time::sleep(NOWHERE).await;
            }
            request
        }
    });
    let mut results = pin!(raft.stream_append(Box::pin(input)));
    while let Some(result) = results.next().await {
        let response = match result {
            Ok(result) => appended(result),
            Err(fatal) => Response::Refused(fatal.to_string()),
        };
        let goes_on = matches!(response, Response::Appended(_));
        let is_answered = answered.lock().pop_front().unwrap_or(false);
        let is_heard = is_answered && goes_on || answer.send(response).await;
        if !is_heard || !goes_on {
            return;
        }
    }
}
