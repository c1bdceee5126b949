//! Logs. They go to standard error, for people or as JSON, one line each. No
//! line holds a token, a key, a password or text of a stranger that was not
//! escaped; the types that hold secrets do not print them.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

/// The environment variable that overrides the level: `debug`, or directives
/// such as `info,satlet::wallet=trace`.
pub const LEVEL_VARIABLE: &str = "SATLET_LOG";

/// Levels by name, quietest first.
pub const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people; coloured on a terminal.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

/// What is logged and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSetting {
    /// One of [`LEVELS`], for satlet's own lines; libraries log from `warn`.
    pub level: String,
    /// How a line looks.
    pub format: LogFormat,
}

impl Default for LogSetting {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
            format: LogFormat::Human,
        }
    }
}

/// Why logs could not be set up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// The directives cannot be read.
    #[error("{LEVEL_VARIABLE}: {0}")]
    Directives(String),
    /// This process has logs already.
    #[error("logs are set up already")]
    Twice,
}

/// The directives in force: those of the environment, or the setting's level
/// for satlet and `warn` for the libraries below it.
///
/// # Errors
/// The environment's directives cannot be read.
pub fn directives(setting: &LogSetting, from_env: Option<&str>) -> Result<EnvFilter, LogError> {
    let text = match from_env.map(str::trim).filter(|text| !text.is_empty()) {
        // A bare level means us, not the libraries.
        Some(level) if LEVELS.contains(&level) => format!("warn,satlet={level}"),
        Some(text) => text.to_owned(),
        None => format!("warn,satlet={}", setting.level),
    };
    EnvFilter::try_new(&text).map_err(|error| LogError::Directives(error.to_string()))
}

/// Sets up the logs of this process; once.
///
/// # Errors
/// [`LogError`].
pub fn init(setting: &LogSetting) -> Result<(), LogError> {
    let from_env = std::env::var(LEVEL_VARIABLE).ok();
    let filter = directives(setting, from_env.as_deref())?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_span_events(FmtSpan::NONE);
    let done = match setting.format {
        LogFormat::Human => {
            let colour = std::io::IsTerminal::is_terminal(&std::io::stderr())
                && std::env::var_os("NO_COLOR").is_none();
            builder.with_ansi(colour).try_init()
        }
        LogFormat::Json => builder
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .try_init(),
    };
    done.map_err(|_| LogError::Twice)
}

#[cfg(test)]
mod tests;
