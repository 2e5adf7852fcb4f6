//! Middleware that counts, times and traces every request by route.

use std::time::Instant;

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::Response,
};

use crate::api::{
    app::App,
    traces::{self, Target, Traced},
};

/// Wraps the whole router.
pub(crate) async fn record(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let start = Instant::now();
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let template = matched.as_ref().map(MatchedPath::as_str);
    let route = app.engine.metrics().routes.find(template);
    let traced = traces::begin(&app.tracer, start, &Target::Http(template), &mut request);
    let mut response = traces::handle(traced.as_ref(), next.run(request)).await;
    let trace_id = traced.as_ref().map(Traced::trace_id);
    route.answered(response.status().as_u16(), start.elapsed(), trace_id);
    if let Some(traced) = traced {
        let status = response.status();
        traced.finish(&mut response, status);
    }
    response
}
