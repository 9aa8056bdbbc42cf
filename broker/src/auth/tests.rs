use super::*;
use crate::accounts::Domains;
use crate::options::AccountOptions;

fn user(name: &str, password: &str, account: &str) -> UserOptions {
    UserOptions {
        credential: Credential::Password {
            user: name.to_owned(),
            password: Secret(password.to_owned()),
        },
        account: account.to_owned(),
        permissions: None,
        connection_types: Default::default(),
    }
}

fn login(user: &str, password: &str) -> Login {
    Login {
        user: user.to_owned(),
        password: Secret(password.to_owned()),
        ..Login::default()
    }
}

fn gate_of(options: &AuthOptions) -> gate::Gate {
    let accounts = Accounts::new(None);
    gate::Gate::new(
        options,
        false,
        true,
        Domains::default(),
        &accounts,
        keys::ServerKeys::new().unwrap(),
        UnixNanos(0),
    )
    .unwrap()
}

async fn who(options: &AuthOptions, login: &Login) -> Result<(String, String), AuthError> {
    let gate = gate_of(options);
    let identity = gate
        .identify(&gate.directory(), login, &Facts::default(), UnixNanos(0))
        .await?;
    Ok((identity.user, identity.account.name.to_string()))
}

#[tokio::test]
async fn users_come_into_their_accounts() {
    let options = AuthOptions {
        users: vec![user("a", "pw", "A"), user("b", "", "$G")],
        accounts: vec![AccountOptions {
            name: "A".to_owned(),
            ..AccountOptions::default()
        }],
        ..AuthOptions::default()
    };
    assert_eq!(
        who(&options, &login("a", "pw")).await,
        Ok(("a".into(), "A".into()))
    );
    for (name, password) in [
        ("a", "no"),
        ("a", ""),
        ("x", "pw"),
        ("", ""),
        ("", "pw"),
        ("*", "pw"),
        (">", ""),
    ] {
        assert_eq!(
            who(&options, &login(name, password)).await,
            Err(AuthError::Violation),
            "{name}:{password}"
        );
    }
    let other_account = Login {
        account: "$SYS".to_owned(),
        ..login("a", "pw")
    };
    assert_eq!(who(&options, &other_account).await, Err(AuthError::Violation));
    let by_default = AuthOptions {
        no_auth_user: Some("a".to_owned()),
        ..options
    };
    assert_eq!(
        who(&by_default, &Login::default()).await,
        Ok(("a".into(), "A".into()))
    );
    assert_eq!(who(&by_default, &login("a", "")).await, Err(AuthError::Violation));
    assert_eq!(
        who(&by_default, &login("", "pw")).await,
        Err(AuthError::Violation)
    );
}

#[tokio::test]
async fn one_user_or_one_token_is_enough() {
    let single = AuthOptions {
        single_user: Some(("u".to_owned(), Secret("p".to_owned()))),
        ..AuthOptions::default()
    };
    assert_eq!(
        who(&single, &login("u", "p")).await,
        Ok(("u".into(), "$G".into()))
    );
    assert!(who(&single, &login("u", "")).await.is_err() && who(&single, &login("v", "p")).await.is_err());
    let token = AuthOptions {
        token: Some(Secret("t".to_owned())),
        ..AuthOptions::default()
    };
    let with = |token: &str| Login {
        token: Secret(token.to_owned()),
        ..Login::default()
    };
    assert!(who(&token, &with("t")).await.is_ok());
    assert!(who(&token, &with("")).await.is_err() && who(&token, &login("t", "t")).await.is_err());
    assert_eq!(
        who(&AuthOptions::default(), &login("x", "y")).await,
        Ok((String::new(), "$G".into()))
    );
}

#[tokio::test]
async fn an_nkey_signs_the_nonce_of_this_connection() {
    const KEY: &str = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";
    let options = AuthOptions {
        users: vec![UserOptions {
            credential: Credential::Nkey(KEY.to_owned()),
            ..user("", "", "$G")
        }],
        ..AuthOptions::default()
    };
    for signature in ["", "AAAA", "not base 64"] {
        let login = Login {
            nkey: KEY.to_owned(),
            signature: signature.to_owned(),
            ..Login::default()
        };
        assert_eq!(who(&options, &login).await, Err(AuthError::Violation));
    }
    let gate = gate_of(&options);
    let (one, other) = (gate.nonce().unwrap(), gate.nonce().unwrap());
    assert!(one.len() == 15 && one != other);
}
