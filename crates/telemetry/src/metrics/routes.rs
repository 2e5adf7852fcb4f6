//! Metrics of each route. Routes are fixed at startup, so their series exist from the start and
//! clients cannot create new ones. Requests without a route count as `other`.

use std::time::Duration;

use crate::metrics::{
    counter::Counter,
    histogram::{Histogram, QUICK},
};

/// Label of requests that match no route.
const OTHER: &str = "other";
/// HTTP statuses: 100 to 599.
const STATUS_MIN: u16 = 100;
const STATUSES: usize = 500;
/// Status that is shown even with a count of zero.
const OK: u16 = 200;

/// All routes, by path template.
#[derive(Debug)]
pub struct Routes(Box<[Route]>);

/// One route.
#[derive(Debug)]
pub struct Route {
    /// Path template.
    pub template: Box<str>,
    /// Responses by status.
    answers: Box<[Counter]>,
    /// Time from request headers to response headers.
    pub duration: Histogram,
}

impl Routes {
    /// Creates metrics for these path templates and for `other`.
    pub fn new(templates: &[String]) -> Self {
        let mut templates: Vec<&str> = templates.iter().map(String::as_str).collect();
        templates.sort_unstable();
        Self(templates.into_iter().chain([OTHER]).map(Route::new).collect())
    }

    /// Returns the route with this template, as matched by the router.
    pub fn find(&self, template: Option<&str>) -> &Route {
        let (other, routes) = self.0.split_last().expect("`other` always exists");
        let Some(template) = template else { return other };
        let index = routes.binary_search_by(|route| (*route.template).cmp(template));
        debug_assert!(index.is_ok(), "{template} is not a template of the router");
        index.map_or(other, |index| &routes[index])
    }

    /// Returns whether this is the template of a route.
    pub fn has(&self, template: &str) -> bool {
        self.0.binary_search_by(|route| (*route.template).cmp(template)).is_ok()
    }

    /// Returns all routes, `other` last.
    pub fn all(&self) -> &[Route] {
        &self.0
    }
}

impl Route {
    fn new(template: &str) -> Self {
        let answers = (0..STATUSES).map(|_| Counter::default()).collect();
        Self { template: template.into(), answers, duration: Histogram::new(QUICK) }
    }

    /// Records a response, and its trace if that is sampled.
    pub fn answered(&self, status: u16, took: Duration, trace_id: Option<u128>) {
        // hyper cannot send a status outside the range.
        if let Some(answers) = self.answers.get(usize::from(status.wrapping_sub(STATUS_MIN))) {
            answers.increment();
        }
        match trace_id {
            Some(trace_id) => self.duration.observe_trace(took, trace_id),
            None => self.duration.observe_time(took),
        }
    }

    /// Returns the count of each status that was sent, and of 200.
    pub fn by_status(&self) -> impl Iterator<Item = (u16, u64)> + '_ {
        let all = (STATUS_MIN..).zip(self.answers.iter().map(Counter::get));
        all.filter(|&(status, count)| count > 0 || status == OK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_found_by_template_and_the_rest_is_other() {
        let routes =
            Routes::new(&["/v2/health/live", "/embed", "/v2/models/{name}"].map(str::to_owned));
        for template in ["/embed", "/v2/health/live", "/v2/models/{name}"] {
            assert_eq!(*routes.find(Some(template)).template, *template);
        }
        assert_eq!(*routes.find(None).template, *OTHER);
    }

    #[test]
    fn only_sent_statuses_and_200_are_shown() {
        let routes = Routes::new(&[]);
        let other = routes.find(None);
        assert_eq!(other.by_status().collect::<Vec<_>>(), [(200, 0)]);
        for status in [404, 404, 599, 100, 0, 600, u16::MAX] {
            other.answered(status, Duration::ZERO, None);
        }
        let shown: Vec<_> = other.by_status().collect();
        assert_eq!(shown, [(100, 1), (200, 0), (404, 2), (599, 1)]);
    }
}
