//! Message numbers. Those that users of the original know keep their values.

use crate::MessageKind;

/// See [`Pcm::Acquire`](super::Pcm::Acquire).
pub const PCM_ACQUIRE: MessageKind = MessageKind(1);
/// See [`Pcm::Ship`](super::Pcm::Ship).
pub const PCM_SHIP: MessageKind = MessageKind(2);
/// See [`Pcm::Invalidate`](super::Pcm::Invalidate).
pub const PCM_INVALIDATE: MessageKind = MessageKind(3);
/// See [`Pcm::Invalidated`](super::Pcm::Invalidated).
pub const PCM_INVALIDATED: MessageKind = MessageKind(4);
/// See [`Pcm::Claim`](super::Pcm::Claim).
pub const PCM_CLAIM: MessageKind = MessageKind(5);
/// See [`Pcm::Claimed`](super::Pcm::Claimed).
pub const PCM_CLAIMED: MessageKind = MessageKind(6);
/// See [`Pcm::Release`](super::Pcm::Release).
pub const PCM_RELEASE: MessageKind = MessageKind(7);
/// See [`Pcm::Released`](super::Pcm::Released).
pub const PCM_RELEASED: MessageKind = MessageKind(8);
/// See [`Pcm::Written`](super::Pcm::Written).
pub const PCM_WRITTEN: MessageKind = MessageKind(9);
/// See [`Pcm::Cancel`](super::Pcm::Cancel).
pub const PCM_CANCEL_BUSY_REQUEST: MessageKind = MessageKind(13);
/// See [`Pcm::StatRequest`](super::Pcm::StatRequest).
pub const PCM_STAT_REQUEST: MessageKind = MessageKind(14);
/// See [`Pcm::StatReply`](super::Pcm::StatReply).
pub const PCM_STAT_REPLY: MessageKind = MessageKind(15);
/// See [`Pcm::Nak`](super::Pcm::Nak).
pub const PCM_NAK: MessageKind = MessageKind(16);
/// See [`Pcm::NodeClear`](super::Pcm::NodeClear).
pub const FAULT_NODE_CLEAR: MessageKind = MessageKind(17);
/// See [`Pcm::Discard`](super::Pcm::Discard).
pub const PCM_DISCARD: MessageKind = MessageKind(18);
/// See [`Pcm::Discarded`](super::Pcm::Discarded).
pub const PCM_DISCARDED: MessageKind = MessageKind(19);
/// See [`Pcm::WriteRequest`](super::Pcm::WriteRequest).
pub const PCM_WRITE_REQUEST: MessageKind = MessageKind(20);
/// See [`Pcm::Refuse`](super::Pcm::Refuse).
pub const PCM_REFUSE: MessageKind = MessageKind(21);
/// See [`Pcm::Query`](super::Pcm::Query).
pub const PCM_QUERY: MessageKind = MessageKind(22);
/// See [`Pcm::Report`](super::Pcm::Report).
pub const PCM_REPORT: MessageKind = MessageKind(23);
/// See [`Pcm::Assign`](super::Pcm::Assign).
pub const PCM_ASSIGN: MessageKind = MessageKind(24);
/// See [`Pcm::Assigned`](super::Pcm::Assigned).
pub const PCM_ASSIGNED: MessageKind = MessageKind(25);
/// See [`Pcm::Write`](super::Pcm::Write).
pub const PCM_WRITE: MessageKind = MessageKind(26);
/// See [`Pcm::GuideWanted`](super::Pcm::GuideWanted).
pub const PCM_GUIDE_WANTED: MessageKind = MessageKind(27);
/// Shadow information in bulk: see [`crate::guide`].
pub const PCM_LOAD_GUIDE: MessageKind = MessageKind(101);
/// See [`Pcm::Response`](super::Pcm::Response).
pub const PCM_RESPONSE: MessageKind = MessageKind(102);
