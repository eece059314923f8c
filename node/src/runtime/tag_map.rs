//! Maps keyed by page.

use crate::grd::TagHasher;
use pagewire_protocol::BufferTag;
use std::{collections::HashMap, hash::BuildHasherDefault};

/// A map from pages to `T`, with the core's hash.
pub(super) type TagMap<T> = HashMap<BufferTag, T, BuildHasherDefault<TagHasher>>;
