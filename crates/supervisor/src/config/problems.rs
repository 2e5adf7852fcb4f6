//! Collects everything that is wrong with a configuration, so that one run reports it all.

use onnxd_proto::exit::Failure;

/// The problems so far.
#[derive(Debug, Default)]
pub(crate) struct Problems(Vec<Failure>);

impl Problems {
    /// Returns the value. Records the failure if there is none.
    pub(crate) fn keep<T>(&mut self, result: Result<T, Failure>) -> Option<T> {
        result.map_err(|failure| self.0.push(failure)).ok()
    }

    /// Returns all problems as one failure with a line for each. Its status is that of the first.
    ///
    /// # Errors
    /// There are problems.
    pub(crate) fn finish(self) -> Result<(), Failure> {
        let messages: Vec<String> = self.0.iter().map(|failure| failure.message.clone()).collect();
        match self.0.into_iter().next() {
            None => Ok(()),
            Some(first) => Err(Failure { message: messages.join("\n"), ..first }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_problems_are_reported_with_the_status_of_the_first() {
        let mut problems = Problems::default();
        assert_eq!(problems.keep(Ok(1)), Some(1));
        Problems::default().finish().unwrap();
        assert_eq!(problems.keep::<()>(Err(Failure::configuration("a"))), None);
        problems.keep::<()>(Err(Failure::internal("b")));
        let failure = problems.finish().unwrap_err();
        assert_eq!(failure.message, "a\nb");
        assert_eq!(failure.status, Failure::configuration("a").status);
    }
}
