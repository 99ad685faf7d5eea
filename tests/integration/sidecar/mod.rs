//! The sidecar with real programs.
