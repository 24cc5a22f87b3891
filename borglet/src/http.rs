//! `/metrics` and `/healthz`, in plain HTTP on an address of their own.

use crate::driver::Core;
use crate::metrics::Exposition;
use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// The content type of the Prometheus text format.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// A core that does not answer for so long is not healthy. Our choice.
const PATIENCE: Duration = Duration::from_secs(2);

/// Serves until `stop`.
pub(crate) async fn serve(
    listener: TcpListener,
    exposition: Exposition,
    core: Core,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let exposition = Arc::new(exposition);
    let metrics = move || {
        let text = exposition.text();
        async move { ([(header::CONTENT_TYPE, TEXT)], text) }
    };
    let health = move || {
        let core = core.clone();
        async move {
            match tokio::time::timeout(PATIENCE, core.obeyed()).await {
                Ok(Some(_)) => (StatusCode::OK, "ok\n").into_response(),
                Ok(None) | Err(_) => {
                    (StatusCode::SERVICE_UNAVAILABLE, "the supervisor does not answer\n")
                        .into_response()
                }
            }
        }
    };
    let routes = Router::new().route("/metrics", get(metrics)).route("/healthz", get(health));
    axum::serve(listener, routes).with_graceful_shutdown(stop.cancelled_owned()).await
}
