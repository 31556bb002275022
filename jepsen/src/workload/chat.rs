//! Chat: the tasks that write into conversations: pairs in both directions, and members of groups.

use std::sync::Arc;

use seriatim_client::Conversation;
use seriatim_proto::ids::UserId;

use super::sender::Sender;
use super::stage::Stage;

/// One side of a pair, until the run is over.
pub(crate) async fn pair(stage: Arc<Stage>, place: usize, user: UserId, peer: UserId) {
    let mut sender = Sender::new(&stage, "direct", place, user, Conversation::Peer(peer));
    while stage.turn().await {
        sender.act(true).await;
    }
}

/// A member of a group, or somebody who is one at times. Only who stays may read all of it.
pub(crate) async fn member(stage: Arc<Stage>, place: usize, user: UserId, group: Conversation, stays: bool) {
    let mut sender = Sender::new(&stage, "group", place, user, group);
    while stage.turn().await {
        sender.act(stays).await;
    }
}
