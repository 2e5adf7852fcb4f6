//! `GET` and `POST /admin/log`: how this server logs. A new filter applies to the supervisor at once, and
//! to workers before their next message.

use axum::{
    body::Body,
    extract::{Request, State},
    http::Response,
};
use onnxd_admin::api::{LogCall, LogSettings, RefusalKind};

use crate::admin::{
    Admin,
    calls::read,
    responses::{Refused, document},
};
use onnxd_engine::dispatch::Event;
use onnxd_telemetry::log;
use tokio::sync::Mutex;

pub(super) async fn show() -> Response<Body> {
    let (filter, format) = log::current().unwrap_or_default();
    document(&LogSettings { filter, format: format.to_string() })
}

/// Held during a change, so that the workers end up with the supervisor's filter.
static CHANGE: Mutex<()> = Mutex::const_new(());

pub(super) async fn change(
    State(admin): State<Admin>,
    request: Request,
) -> Result<Response<Body>, Refused> {
    let LogCall { filter } = read(request).await?;
    let _changing = CHANGE.lock().await;
    log::set_filter(&filter)
        .map_err(|error| Refused(RefusalKind::Malformed.because(error.to_string())))?;
    // If the dispatcher has stopped, no worker is left.
    let _ = admin.events.send(Event::LogFilterChanged(filter)).await;
    Ok(show().await)
}
