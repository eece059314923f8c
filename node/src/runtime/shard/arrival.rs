//! What is handed to the core, now or when it has the view for it.

use crate::grd::Event as Input;
use pagewire_protocol::InstanceId;
use pagewire_transport::Frame;

/// An event for the core, and the page that came with it.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) input: Input,
    pub(super) page: Option<Frame>,
}

impl From<Input> for Arrival {
    fn from(input: Input) -> Self {
        Self { input, page: None }
    }
}

impl Arrival {
    /// Who sent what it is about.
    pub(super) fn sender(&self) -> Option<InstanceId> {
        match &self.input {
            Input::Message { from, .. } | Input::LoadGuide { from, .. } => Some(*from),
            _ => None,
        }
    }
}
