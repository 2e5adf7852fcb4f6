//! The calls about the log.

use hyper::Method;

use crate::{
    api::{LOG_PATH, LogCall, LogSettings},
    client::{Client, Error, Reply},
    reply::answer,
};

impl Client {
    /// Returns how the supervisor logs, after changing the filter if one is given.
    ///
    /// # Errors
    /// No supervisor responds, or the response is malformed.
    pub async fn log(&self, filter: Option<&str>) -> Result<Reply<LogSettings>, Error> {
        let (method, body) = match filter {
            Some(filter) => {
                let call = LogCall { filter: filter.to_owned() };
                (
                    Method::POST,
                    serde_json::to_vec(&call).map_err(|error| Error::Broken(error.into()))?,
                )
            }
            None => (Method::GET, Vec::new()),
        };
        answer(self.send(method, LOG_PATH, body.into()).await?).await
    }
}
