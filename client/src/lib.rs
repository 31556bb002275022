//! The Rust SDK: a device of a user, over the public protocol `seriatim-1` only (docs/protocol.md).
//!
//! A [`Client`] keeps one connection and makes it again when it drops. What it was asked stays asked: every request
//! is repeated, under the same message id, until it is answered or its time is over. So a send has one of three
//! ends: committed, rejected, or unknown ([`RequestError`]); after an unknown one, the same [`SendRequest`] may be
//! sent again.
//!
//! A [`Subscription`] yields the inbox's entries, each exactly once and in order, over gaps, slow readers and
//! reconnects.
//!
//! ```no_run
//! use futures_util::StreamExt;
//! use seriatim_client::{Client, Conversation};
//! use seriatim_proto::ids::Seq;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::builder("127.0.0.1:4433".parse()?, "localhost")
//!     .ca_pem(&std::fs::read("ca.pem")?)
//!     .token("a signed token")
//!     .device("phone")
//!     .connect()
//!     .await?;
//! let committed = client.send(Conversation::peer("bob")?, "hello").await?;
//! println!("in the conversation at {}", committed.seq);
//!
//! let mut inbox = client.subscribe(Seq::FIRST, None);
//! while let Some(entry) = inbox.next().await {
//!     let entry = entry?;
//!     println!("{} from {}", entry.seq, entry.sender);
//!     client.ack(entry.seq.next()).await?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Many clients of one process share an [`Endpoint`]: one socket, and per client one task of ours and one of the
//! QUIC library.
//!
//! Tokens end. With [`ClientBuilder::token_source`] the client asks for a fresh one before the session's own ends, and
//! shows it within the session: nothing is reconnected. A source that fails is asked again, and so it is before every
//! new connection. A token that never changes ([`ClientBuilder::token`]) ends the client with it.
//!
//! ```no_run
//! # async fn fetch_token() -> std::io::Result<String> { Ok(String::new()) }
//! # fn example(builder: seriatim_client::ClientBuilder) -> seriatim_client::ClientBuilder {
//! builder.token_source(|| async { fetch_token().await })
//! # }
//! ```
//!
//! Instead of a token a device may show a certificate, where the gateway takes them:
//! [`ClientBuilder::client_certificate`], or [`ClientBuilder::client_certificate_files`] for one that is renewed on disk.
//!
//! Networks that block UDP are what [`Transport::Fastest`] is for: it takes a WebSocket where QUIC does not get through.
//!
//! With the feature `raw` there is a connection whose bytes its user writes himself, for programs that judge a gateway.
//!
//! # Reading order
//! [`Client::builder`] → `pilot` (the task) → `requests` → `inbox` → `wire` → `quic` or `socket`.
#![forbid(unsafe_code)]

mod builder;
mod certificate;
mod client;
mod endpoint;
mod entry;
mod error;
mod inbox;
mod pilot;
mod quic;
#[cfg(feature = "raw")]
pub mod raw;
mod renewal;
mod requests;
mod shared;
mod silence;
mod socket;
mod verify;
mod wire;

pub use builder::{ClientBuilder, Transport};
pub use client::{AmendRequest, Client, SendRequest, Ticket};
pub use endpoint::{Endpoint, SetupError};
pub use entry::{
    Committed, Conversation, Entry, EntryBody, HistoryPage, Identity, Kind, ListPage, Listed, Numbers, SendStatus,
    StatusPage, SyncPage,
};
pub use error::{ConnectError, EntryError, RequestError, SubscriptionError};
pub use inbox::Subscription;
pub use seriatim_proto::logic::Amendment;
pub use verify::{ChainError, verify_page};
