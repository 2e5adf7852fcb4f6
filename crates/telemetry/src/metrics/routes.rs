//! What is counted of each route. Routes are known beforehand, so that their series are there from
//! the start and no client can make new ones: what has no route of its own is `other`.

use std::time::Duration;

use crate::metrics::{
    counter::Counter,
    histogram::{Histogram, QUICK},
};

/// The label of requests that no route answers.
const OTHER: &str = "other";
/// The statuses that HTTP has: 100 to 599.
const STATUS_MIN: u16 = 100;
const STATUSES: usize = 500;
/// The status that is shown before there was one.
const OK: u16 = 200;

/// All routes, by the template of their path.
#[derive(Debug)]
pub struct Routes(Box<[Route]>);

/// One route.
#[derive(Debug)]
pub struct Route {
    /// The template of its path.
    pub template: Box<str>,
    /// By status.
    answers: Box<[Counter]>,
    /// From the headers of a request to those of its answer.
    pub duration: Histogram,
}

impl Routes {
    /// Routes with these templates, and what has none.
    pub fn new(templates: &[String]) -> Self {
        let mut templates: Vec<&str> = templates.iter().map(String::as_str).collect();
        templates.sort_unstable();
        Self(templates.into_iter().chain([OTHER]).map(Route::new).collect())
    }

    /// The route with this template, as the router matched it.
    pub fn find(&self, template: Option<&str>) -> &Route {
        let (other, routes) = self.0.split_last().expect("there is always `other`");
        let Some(template) = template else { return other };
        let found = routes.binary_search_by(|route| (*route.template).cmp(template));
        debug_assert!(found.is_ok(), "{template} is not among the templates of the router");
        found.map_or(other, |place| &routes[place])
    }

    /// All of them.
    pub fn all(&self) -> &[Route] {
        &self.0
    }
}

impl Route {
    fn new(template: &str) -> Self {
        let answers = (0..STATUSES).map(|_| Counter::default()).collect();
        Self { template: template.into(), answers, duration: Histogram::new(QUICK) }
    }

    /// A request has been answered.
    pub fn answered(&self, status: u16, took: Duration) {
        // What is no status of HTTP cannot be sent either.
        if let Some(answers) = self.answers.get(usize::from(status.wrapping_sub(STATUS_MIN))) {
            answers.add();
        }
        self.duration.observe_time(took);
    }

    /// How many answers there were of each status that there was, and of 200.
    pub fn by_status(&self) -> impl Iterator<Item = (u16, u64)> + '_ {
        let all = (STATUS_MIN..).zip(self.answers.iter().map(Counter::read));
        all.filter(|&(status, count)| count > 0 || status == OK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_found_by_its_template_and_everything_else_is_other() {
        let routes =
            Routes::new(&["/v2/health/live", "/embed", "/v2/models/{name}"].map(str::to_owned));
        for template in ["/embed", "/v2/health/live", "/v2/models/{name}"] {
            assert_eq!(*routes.find(Some(template)).template, *template);
        }
        assert_eq!(*routes.find(None).template, *OTHER);
    }

    #[test]
    fn only_statuses_that_were_sent_are_shown_and_200_from_the_start() {
        let routes = Routes::new(&[]);
        let other = routes.find(None);
        assert_eq!(other.by_status().collect::<Vec<_>>(), [(200, 0)]);
        for status in [404, 404, 599, 100, 0, 600, u16::MAX] {
            other.answered(status, Duration::ZERO);
        }
        let shown: Vec<_> = other.by_status().collect();
        assert_eq!(shown, [(100, 1), (200, 0), (404, 2), (599, 1)]);
    }
}
