//! Defines the settings of `onnxd serve`: each is a flag, a variable and a key of the configuration
//! file. A file for each heading of the help. [`Config`](super::Config) applies defaults and checks
//! values.

/// Lets a group of settings take those that are absent from another. Does not compile if the list lacks a setting.
macro_rules! overlay {
    ($group:ident: $($setting:ident)+) => {
        impl $group {
            /// Returns these settings, with those of `under` where they are absent.
            pub(super) fn over(self, under: Self) -> Self {
                use super::Setting as _;
                let Self { $($setting),+ } = self;
                Self { $($setting: $setting.or_from(under.$setting)),+ }
            }
        }
    };
}

mod limits;
mod listening;
mod logging;
mod models;
mod other;
mod search;
mod security;
mod state;
mod tracing;
mod updates;
mod workers;

use self::{
    limits::LimitFlags, listening::ListenFlags, logging::LoggingFlags, models::ModelFlags,
    other::OtherFlags, search::SearchFlags, security::SecurityFlags, state::StateFlags,
    tracing::TracingFlags, updates::UpdateFlags, workers::WorkerFlags,
};

/// Flags that cannot be set in the file.
pub(super) const FLAGS_ONLY: [&str; 2] = ["config", "check-config"];

/// The settings of `onnxd serve`, before defaults.
#[derive(Clone, Debug, Default, PartialEq, clap::Args)]
pub(crate) struct ServeArguments {
    #[command(flatten)]
    pub models: ModelFlags,
    #[command(flatten)]
    pub listening: ListenFlags,
    #[command(flatten)]
    pub security: SecurityFlags,
    #[command(flatten)]
    pub workers: WorkerFlags,
    #[command(flatten)]
    pub updates: UpdateFlags,
    #[command(flatten)]
    pub limits: LimitFlags,
    #[command(flatten)]
    pub state: StateFlags,
    #[command(flatten)]
    pub search: SearchFlags,
    #[command(flatten)]
    pub logging: LoggingFlags,
    #[command(flatten)]
    pub tracing: TracingFlags,
    #[command(flatten)]
    pub other: OtherFlags,
}

/// A setting that may be absent.
trait Setting {
    /// Returns this setting, or `other` if it is absent.
    fn or_from(self, other: Self) -> Self;
}

impl<T> Setting for Option<T> {
    fn or_from(self, other: Self) -> Self {
        self.or(other)
    }
}

impl<T> Setting for Vec<T> {
    fn or_from(self, other: Self) -> Self {
        if self.is_empty() { other } else { self }
    }
}

impl ServeArguments {
    /// Returns whether a flag is also a key of the file.
    pub(crate) fn is_key(flag: &str) -> bool {
        !FLAGS_ONLY.contains(&flag)
    }

    /// Reads the settings of a file, whose keys are known.
    ///
    /// # Errors
    /// A value has the wrong type. The error has its place in the text.
    pub(crate) fn from_toml(text: &str) -> Result<Self, toml::de::Error> {
        Ok(Self {
            models: toml::from_str(text)?,
            listening: toml::from_str(text)?,
            security: toml::from_str(text)?,
            workers: toml::from_str(text)?,
            updates: toml::from_str(text)?,
            limits: toml::from_str(text)?,
            state: toml::from_str(text)?,
            search: toml::from_str(text)?,
            logging: toml::from_str(text)?,
            tracing: toml::from_str(text)?,
            other: OtherFlags::default(),
        })
    }

    /// Returns these settings, with those of the file where they are absent.
    pub(super) fn over(self, file: Self) -> Self {
        Self {
            models: self.models.over(file.models),
            listening: self.listening.over(file.listening),
            security: self.security.over(file.security),
            workers: self.workers.over(file.workers),
            updates: self.updates.over(file.updates),
            limits: self.limits.over(file.limits),
            state: self.state.over(file.state),
            search: self.search.over(file.search),
            logging: self.logging.over(file.logging),
            tracing: self.tracing.over(file.tracing),
            // Flags only.
            other: self.other,
        }
    }
}

#[cfg(test)]
mod tests;
