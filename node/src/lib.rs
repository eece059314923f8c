//! One Pagewire instance.
pub mod grd;
pub mod view;
