//! The status of a list of commands: whether it matters that the list fails.

/// The meaning of a command's status for the script.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Status {
    /// It needs no attention.
    #[default]
    Harmless,
    /// It must not be lost.
    Relevant,
    /// The command leaves the script, the function or the loop, so that nothing follows.
    Leaving,
}

impl Status {
    /// The status of one of two commands.
    pub fn or(self, other: Self) -> Self {
        if self == Self::Relevant || other == Self::Relevant { Self::Relevant } else { Self::Harmless }
    }
}

/// A sequence of pipelines which `&&` and `||` join, as far as it is read.
#[derive(Default)]
pub(super) struct List {
    /// Whether the status of the pipelines that have ended must not be lost.
    pub is_relevant: bool,
    /// The status of the present pipeline's earlier commands; none if it has none.
    pub pipeline: Option<Status>,
    /// Whether the present pipeline follows `||`.
    pub is_alternative: bool,
    /// Whether an operator was read whose right side is missing.
    pub is_open: bool,
}

impl List {
    /// Ends the present pipeline with the status of its last command, and returns the status of the pipeline.
    pub fn end_pipeline(&mut self, last: Status) -> Status {
        let status = self.pipeline.take().map_or(last, |earlier| earlier.or(last));
        self.is_relevant = match status {
            Status::Relevant => true,
            // The author has treated the status.
            Status::Leaving => false,
            Status::Harmless => self.is_relevant && !self.is_alternative,
        };
        self.is_alternative = false;
        status
    }
}
