//! Paths with the name of a model, as clients write them: a slash in a name need not be escaped.

use onnxd_proto::domain::model_name::ModelName;

/// What may follow a model and its version.
const CALLS: [&str; 4] = ["/infer", "/ready", "/config", "/stats"];
/// Calls of Triton that onnxd does not have. They are no part of a name either.
const UNSUPPORTED: [&str; 3] = ["/generate", "/generate_stream", "/trace/setting"];

/// Returns a path with the slashes of the model's name escaped, if there are any: the name ends where
/// `versions/VERSION` or the name of a call begins. A name with such an end must be sent escaped.
pub(crate) fn escaped(path: &str) -> Option<String> {
    let (name, rest, routed) = match path.strip_prefix("/v2/models/") {
        Some(rest) => (name(rest), rest, 1),
        // Nothing follows the name, and a name of two parts has a route.
        None => path.strip_prefix("/v1/models/").map(|rest| (rest, rest, 2))?,
    };
    // The router answers that there is no such route.
    if routed == 1 && UNSUPPORTED.iter().any(|call| rest.ends_with(call)) {
        return None;
    }
    let prefix = &path[..path.len() - rest.len()];
    let is_routed = name.split('/').count() <= routed;
    // A path such as `a/../b` names no model.
    (!is_routed && name.parse::<ModelName>().is_ok())
        .then(|| format!("{prefix}{}{}", name.replace('/', "%2F"), &rest[name.len()..]))
}

fn name(rest: &str) -> &str {
    let model = CALLS.iter().find_map(|call| rest.strip_suffix(call)).unwrap_or(rest);
    let version = model.rsplit_once('/').and_then(|(before, _)| before.strip_suffix("/versions"));
    version.unwrap_or(model)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slashes_of_a_name_are_escaped_and_others_stay() {
        for (path, expected) in [
            ("/v2/models/a/b", "/v2/models/a%2Fb"),
            ("/v2/models/a/b/infer", "/v2/models/a%2Fb/infer"),
            ("/v2/models/a/b/c/ready", "/v2/models/a%2Fb%2Fc/ready"),
            ("/v2/models/a/b/versions/1", "/v2/models/a%2Fb/versions/1"),
            ("/v2/models/a/b/versions/1/stats", "/v2/models/a%2Fb/versions/1/stats"),
            ("/v2/models/a/versions/1/versions/2", "/v2/models/a%2Fversions%2F1/versions/2"),
            ("/v2/models/a/generate/infer", "/v2/models/a%2Fgenerate/infer"),
            ("/v2/models/a/b-generate", "/v2/models/a%2Fb-generate"),
            ("/v1/models/a/b/c", "/v1/models/a%2Fb%2Fc"),
            ("/v1/models/a/b/generate", "/v1/models/a%2Fb%2Fgenerate"),
        ] {
            assert_eq!(escaped(path).as_deref(), Some(expected), "{path}");
        }
        for path in [
            "/v2/models",
            "/v2/models/a",
            "/v2/models/a%2Fb/infer",
            "/v2/models/a/config",
            "/v2/models/a/versions/1",
            "/v2/models/a/versions/1/infer",
            "/v2/models/stats",
            "/v2/models/a/generate",
            "/v2/models/a/b/generate_stream",
            "/v2/models/a/versions/1/generate",
            "/v2/models/a/trace/setting",
            "/v2/models/a/../b",
            "/v2/models/a//b",
            "/v2/repository/models/a/load",
            "/v1/models/a/b",
            "/embed",
        ] {
            assert_eq!(escaped(path), None, "{path}");
        }
    }
}
