//! `/aliases`: other names of collections, changed all together or not at all.

use std::collections::BTreeMap;

use axum::{
    body::Body,
    extract::{Path, State},
    http::{Request, Response},
};
use onnxd_proto::search::CatalogEntry;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::{
    app::App,
    error::{Class, Fault},
    qdrant::error::{Answer, QdrantErrors, answered, read},
};

/// Changes of aliases.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChangeAliases {
    actions: Vec<AliasAction>,
}

/// A change of an alias.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
enum AliasAction {
    /// Adds an alias, or points it to another collection.
    #[serde(rename = "create_alias")]
    Create { collection_name: String, alias_name: String },
    /// Removes an alias.
    #[serde(rename = "delete_alias")]
    Delete { alias_name: String },
    /// Renames an alias.
    #[serde(rename = "rename_alias")]
    Rename { old_alias_name: String, new_alias_name: String },
}

/// Aliases with their collections.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Aliases {
    aliases: Vec<AliasDescription>,
}

/// An alias with its collection.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AliasDescription {
    alias_name: String,
    collection_name: String,
}

impl Aliases {
    fn new(collections: impl IntoIterator<Item = CatalogEntry>) -> Self {
        let of = |CatalogEntry { name, aliases, .. }: CatalogEntry| {
            aliases.into_iter().map(move |alias_name| AliasDescription {
                alias_name,
                collection_name: name.clone(),
            })
        };
        Self { aliases: collections.into_iter().flat_map(of).collect() }
    }
}

/// Changes aliases: all or none.
#[utoipa::path(
    post, path = "/collections/aliases", tag = "qdrant", request_body = ChangeAliases,
    responses((status = 200, description = "All are changed", body = Answer<bool>), QdrantErrors)
)]
pub(crate) async fn change_aliases(
    State(app): State<App>,
    request: Request<Body>,
) -> Response<Body> {
    answered(&app, async {
        let (_call, ChangeAliases { actions }) = read(&app, request).await?;
        let search = app.search()?;
        let known = Aliases::new(search.names().await?).aliases;
        let before = known.into_iter().map(|alias| (alias.alias_name, alias.collection_name));
        let (removed, added) = changes(&before.collect(), actions)?;
        search.set_aliases(removed, added).await?;
        Ok(true)
    })
    .await
}

/// Aliases to remove, and those to add with their collections.
type Changes = (Vec<String>, Vec<(String, String)>);

/// Returns the aliases to remove, and those to add with their collections.
fn changes(before: &BTreeMap<String, String>, actions: Vec<AliasAction>) -> Result<Changes, Fault> {
    let mut after = before.clone();
    for action in actions {
        match action {
            AliasAction::Create { collection_name, alias_name } => {
                after.insert(alias_name, collection_name);
            }
            AliasAction::Delete { alias_name } => {
                after.remove(&alias_name);
            }
            AliasAction::Rename { old_alias_name, new_alias_name } => {
                let collection = after.remove(&old_alias_name).ok_or_else(|| {
                    let message = format!("alias `{old_alias_name}` does not exist");
                    Fault::new(Class::Engine(onnxd_engine::ErrorKind::NotFound), message)
                })?;
                after.insert(new_alias_name, collection);
            }
        }
    }
    let differs =
        |(alias, collection): &(&String, &String)| before.get(*alias) != Some(*collection);
    let added: Vec<(String, String)> =
        after.iter().filter(differs).map(|(alias, to)| (alias.clone(), to.clone())).collect();
    let stale = |(alias, collection): &(&String, &String)| after.get(*alias) != Some(*collection);
    let removed = before.iter().filter(stale).map(|(alias, _)| alias.clone()).collect();
    Ok((removed, added))
}

/// Lists all aliases.
#[utoipa::path(
    get, path = "/aliases", tag = "qdrant",
    responses((status = 200, description = "All aliases", body = Answer<Aliases>), QdrantErrors)
)]
pub(crate) async fn aliases(State(app): State<App>) -> Response<Body> {
    answered(&app, async {
        let all = Aliases::new(app.search()?.names().await?);
        Ok(all)
    })
    .await
}

/// Lists the aliases of a collection.
#[utoipa::path(
    get, path = "/collections/{collection}/aliases", tag = "qdrant",
    params(("collection" = String, Path, description = "The collection's name or alias")),
    responses((status = 200, description = "Its aliases", body = Answer<Aliases>), QdrantErrors)
)]
pub(crate) async fn collection_aliases(
    State(app): State<App>,
    Path(name): Path<String>,
) -> Response<Body> {
    answered(&app, async {
        let search = app.search()?;
        let (name, _) = search.settings(&name).await?;
        let own = search.names().await?.into_iter().filter(|known| known.name == name);
        Ok(Aliases::new(own))
    })
    .await
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn actions_apply_in_order_and_become_one_change() {
        let before = [("a", "x"), ("b", "y")].map(|(alias, to)| (alias.to_owned(), to.to_owned()));
        let before = BTreeMap::from(before);
        let apply = |actions| {
            let body: ChangeAliases = serde_json::from_value(json!({"actions": actions})).unwrap();
            changes(&before, body.actions).map_err(|fault| fault.message)
        };
        let pair = |alias: &str, to: &str| (alias.to_owned(), to.to_owned());
        let moved = apply(json!([
            {"create_alias": {"collection_name": "y", "alias_name": "a"}},
            {"rename_alias": {"old_alias_name": "b", "new_alias_name": "c"}},
            {"delete_alias": {"alias_name": "unknown"}},
        ]));
        let expected = (vec!["a".to_owned(), "b".to_owned()], vec![pair("a", "y"), pair("c", "y")]);
        assert_eq!(moved, Ok(expected));
        let undone = apply(json!([
            {"delete_alias": {"alias_name": "a"}},
            {"create_alias": {"collection_name": "x", "alias_name": "a"}},
        ]));
        assert_eq!(undone, Ok((vec![], vec![])));
        let missing =
            apply(json!([{"rename_alias": {"old_alias_name": "z", "new_alias_name": "c"}}]));
        assert!(missing.unwrap_err().contains("`z` does not exist"));
    }
}
