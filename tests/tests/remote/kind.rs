//! What the scenario needs to know about a kind of source, and how sources notify onnxd.

use std::{net::SocketAddr, time::Duration};

use e2e::client::{Client, Response};
use ring::hmac;
use serde_json::{Value, json};

use crate::{
    files::{Files, hex},
    servers::{PASSWORD, Server, WRONG_PASSWORD},
};

/// Whether a server accepts the credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Credentials {
    Right,
    Wrong,
}

impl Credentials {
    /// Returns the password or token.
    pub(crate) fn password(self) -> &'static str {
        match self {
            Self::Right => PASSWORD,
            Self::Wrong => WRONG_PASSWORD,
        }
    }
}

/// A model on real servers that ask for credentials.
pub(crate) trait Kind {
    /// Returns the URI of the model.
    fn source(&self) -> String;

    /// Returns the variables of an onnxd with these credentials.
    fn variables(&self, credentials: Credentials) -> Vec<(&'static str, String)>;

    /// Returns a part of the advice that an error about wrong credentials must contain.
    fn remedy(&self) -> &'static str;

    /// Publishes the next version. Pauses after each file that is visible before the others are.
    fn publish(&mut self, files: &Files, pause: Duration);

    /// Returns the servers, in the order of their start.
    fn servers(&mut self) -> Vec<&mut Server>;

    /// Publishes the next version and sends the notification that such a source sends. The default is a
    /// script, which names the source.
    async fn publish_and_notify(&mut self, files: &Files, hook: &Hook) {
        self.publish(files, Duration::ZERO);
        hook.notify(&json!({"source": self.source()})).await;
    }
}

/// The address of notifications, and their secret.
#[derive(Clone, Debug)]
pub(crate) struct Hook {
    pub(crate) address: SocketAddr,
    pub(crate) secret: &'static str,
}

impl Hook {
    /// Returns the URL.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/admin/webhook", self.address)
    }

    /// Sends a notification with this header.
    pub(crate) async fn send(&self, header: (&str, &str), body: &Value) -> Response {
        let mut client = Client::connect(self.address).await.unwrap();
        let headers = [("content-type", "application/json"), header];
        let body = body.to_string().into();
        client.send_with(hyper::Method::POST, "/admin/webhook", &headers, body).await.unwrap()
    }

    /// Sends a notification signed with HMAC, which must make onnxd check the model.
    pub(crate) async fn notify(&self, body: &Value) {
        let response = self.send_signed(body, self.secret).await;
        accepted(&response);
    }

    /// Sends a notification signed with HMAC and a secret.
    pub(crate) async fn send_signed(&self, body: &Value, secret: &str) -> Response {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        let signature = hex(hmac::sign(&key, body.to_string().as_bytes()).as_ref());
        self.send(("x-onnxd-signature", &format!("sha256={signature}")), body).await
    }
}

/// Checks that a notification makes onnxd check the model.
pub(crate) fn accepted(response: &Response) {
    let text = response.text();
    assert_eq!((response.status, text.as_str()), (202, r#"{"models":["m"]}"#));
}
