//! Chat: the tasks that write into conversations: pairs in both directions, and members of groups.

use std::sync::Arc;

use rand::RngExt;
use seriatim_client::Conversation;
use seriatim_proto::ids::{ConversationKey, UserId};

use super::peeks;
use super::sender::Sender;
use super::stage::Stage;

/// One side of a pair, until the run is over.
pub(crate) async fn pair(stage: Arc<Stage>, place: usize, user: UserId, peer: UserId) {
    let mut sender = Sender::new(&stage, "direct", place, user, Conversation::Peer(peer));
    while stage.turn().await {
        sender.act(true).await;
    }
}

/// A member of a group who stays, and may read all of it.
pub(crate) async fn stayer(stage: Arc<Stage>, place: usize, user: UserId, group: ConversationKey) {
    let mut sender = Sender::new(&stage, "group", place, user, Conversation::Group(group));
    while stage.turn().await {
        sender.act(true).await;
    }
}

/// Somebody who is a member at times, and reads what he can get.
pub(crate) async fn comer(stage: Arc<Stage>, place: usize, user: UserId, group: ConversationKey) {
    let mut sender = Sender::new(&stage, "group", place, user, Conversation::Group(group));
    let mut rng = stage.rng("peek", place);
    let mut last_seq = 1;
    while stage.turn().await {
        if rng.random_bool(0.5) {
            sender.act(false).await;
        } else if let Ok(client) = sender.device.client().await {
            let upto = peeks::peek(&stage, &mut rng, &client, &sender.device.user, group, last_seq).await;
            last_seq = last_seq.max(upto.unwrap_or(0));
        }
    }
}
