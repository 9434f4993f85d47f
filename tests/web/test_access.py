"""Who may see what, tried as somebody would who may not."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from support.journal import Clock
from support.web.people import PROXY, STRANGER, Door
from support.web.site import ROLES, password

from pacs_node.journal import sessions
from pacs_node.journal.database import Database
from pacs_node.web.access import COOKIE, LARGEST_FORM, PageRoute, page
from pacs_node.web.users import Role, Users

OPEN = {"/login", "/static", "/metrics", "/health/live", "/health/ready"}
"""What is for everybody: it tells nothing of patients."""
LOGIN = re.compile(r"^/login\?next=")


@pytest.fixture
def database_kind() -> str:
    """Access is the same on both; the journal's tests try both."""
    return "sqlite"


def guarded(app: Starlette) -> Iterator[tuple[str, str, Role]]:
    """Method, path and role of every route that is not for everybody, with something in its parameters."""
    for route in app.routes:
        assert isinstance(route, Route | Mount)
        if isinstance(route, PageRoute):
            (method,) = (route.methods or set()) - {"HEAD"}
            yield method, re.sub(r"{[^}]*}", "1", route.path), route.role
        else:
            assert route.path in OPEN, f"{route.path} asks nobody who they are"


def test_every_page_asks_who_it_is_and_refuses_lesser_roles(node: Door) -> None:
    clients = {name: node.enter(name) for name in ROLES}
    stranger, program = node.client(), node.client(Accept="application/json")
    paths = list(guarded(node.app))
    assert ("POST", "/system/quarantine/1", Role.ADMIN) in paths
    for method, path, role in paths:
        answer = stranger.request(method, path)
        assert (answer.status_code, bool(answer.content)) == (
            (303, False) if method == "GET" else (401, True)
        )
        assert program.request(method, path).status_code == 401
        for name, client in clients.items():
            if not Role(name).may(role):
                refused = client.request(method, path)
                assert refused.status_code == 403, f"{name} {method} {path}"
                assert f"for the role {role} only" in refused.text


def test_what_is_asked_for_is_shown_after_the_login(node: Door) -> None:
    client = node.client()
    sent = client.get("/system?x=1&y=%26").headers["location"]
    assert sent == "/login?next=%2Fsystem%3Fx%3D1%26y%3D%2526"
    form = {"name": "viewer", "password": password("viewer"), "next": "/system?x=1&y=%26"}
    assert client.post("/login", data=form).headers["location"] == "/system?x=1&y=%26"
    stream = node.client(Accept="text/event-stream").get("/events")
    assert stream.headers["content-type"].startswith("text/event-stream")
    assert stream.text == "event: changed\ndata: logged out\n\n", "the page then asks for its parts"
    part = node.client(HX_Request="true", HX_Current_URL="http://any/?state=READY").get("/")
    assert (part.status_code, part.headers["hx-redirect"]) == (401, "/login?next=%2F%3Fstate%3DREADY")


def test_the_login_leads_to_no_other_site(node: Door) -> None:
    targets = (
        *(
            "https://evil.example",
            "//evil.example",
            "/\\evil.example",
            "\\\\evil.example",
            "javascript:alert(1)",
        ),
        *("/\t/evil.example", "/\r\nSet-Cookie: a=b", " //evil.example", "", "///evil.example"),
    )
    for number, target in enumerate(targets):
        name = ROLES[number % len(ROLES)]
        form = {"name": name, "password": password(name), "next": target}
        answer = node.client().post("/login", data=form)
        assert answer.headers["location"] == "/", repr(target)
        assert len(answer.headers.get_list("set-cookie")) == 1


def test_a_session_cannot_be_replayed_after_logging_out(node: Door) -> None:
    client = node.enter("admin")
    token = client.cookies[COOKIE]
    thief = node.client()
    thief.cookies.set(COOKIE, token)
    assert thief.get("/").status_code == 200
    assert client.post("/logout").headers["location"] == "/login"
    assert LOGIN.match(thief.get("/").headers["location"])
    assert token not in str(node.events("logged_in")) + str(node.events("logged_out"))
    with node.database.read() as connection:
        assert token not in str(connection.exec_driver_sql("SELECT * FROM sessions").all())


def test_nobody_chooses_the_session_of_another(node: Door) -> None:
    client = node.client()
    client.cookies.set(COOKIE, "chosen-by-somebody-else")
    form = {"name": "viewer", "password": password("viewer")}
    first = client.post("/login", data=form).cookies[COOKIE]
    assert first != "chosen-by-somebody-else"
    again = node.client()
    again.cookies.set(COOKIE, first)
    assert again.post("/login", data=form).cookies[COOKIE] != first
    again.cookies.clear()
    again.cookies.set(COOKIE, first)
    assert again.get("/").status_code == 303


def test_who_is_removed_or_gets_another_role_is_out_at_once(node: Door, users: Path) -> None:
    clients = {name: node.enter(name) for name in ROLES}
    text = users.read_text(encoding="utf-8")
    users.write_text(text.replace('role = "admin"', 'role = "viewer"'), encoding="utf-8")
    assert clients["admin"].get("/").status_code == 303
    Users(users).remove("radiologist")
    assert clients["radiologist"].get("/").status_code == 303
    assert clients["viewer"].get("/").status_code == 200
    Users(users).remove("viewer")
    assert clients["viewer"].post("/logout").status_code == 401


def test_another_password_ends_the_sessions_of_before(node: Door) -> None:
    client = node.enter("viewer")
    sessions.end_all(node.database, "viewer", "root")
    assert client.get("/").status_code == 303
    assert node.events("user_changed") == [{"name": "viewer", "who": "root"}]


def test_a_session_ends_when_nobody_uses_it_and_after_a_day_of_work(node: Door, clock: Clock) -> None:
    used, forgotten = node.enter("viewer"), node.enter("viewer")
    for _ in range(14):
        clock.now += 50 * 60
        assert used.get("/").status_code == 200
    assert forgotten.get("/").status_code == 303
    clock.now += 50 * 60
    assert used.get("/").status_code == 303, "twelve hours are over"


@pytest.mark.parametrize("headers", [{"X-Renewal": "1"}, {"Accept": "text/event-stream"}])
def test_a_page_that_renews_itself_keeps_nobody_logged_in(
    node: Door, clock: Clock, headers: dict[str, str]
) -> None:
    client = node.enter("viewer")
    for _ in range(5):
        clock.now += 11 * 60
        assert "Log out" in client.get("/", headers=headers).text
    clock.now += 11 * 60
    assert client.get("/").status_code == 303


def test_who_a_proxy_says_it_is_counts_only_from_a_trusted_proxy(node: Door) -> None:
    forged = {"X_Forwarded_User": "mallory", "X_Forwarded_Role": "admin"}
    for host in ("127.0.0.1", STRANGER):
        assert LOGIN.match(node.client(host, **forged).get("/").headers["location"])
        assert node.client(host, X_Forwarded_For=PROXY, **forged).get("/").status_code == 303
    trusted = node.client(PROXY, X_Forwarded_User="DOM\\anna", X_Forwarded_Role="admin").get("/")
    assert "DOM\\anna (admin)" in trusted.text
    assert "Log out" not in trusted.text
    for name, role in (("anna", "root"), ("anna", ""), ("<script>", "admin"), ("a" * 200, "admin")):
        answer = node.client(PROXY, X_Forwarded_User=name, X_Forwarded_Role=role).get("/")
        assert answer.status_code == 403
        assert "<script>" not in answer.text
    assert node.client(PROXY).get("/").status_code == 303, "the proxy names nobody"


def test_another_site_cannot_act_for_who_is_logged_in(node: Door) -> None:
    client = node.enter("admin")
    for headers in (
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Origin": node.url},
        {"Origin": "http://evil.example"},
        {"Origin": f"{node.url}.evil.example"},
        {"Origin": "http://127.0.0.1:81"},
        {"Origin": "null"},
        {"Origin": "http://evil.example", "X-Forwarded-Host": "evil.example"},
    ):
        for path in ("/logout", "/login", "/system/quarantine/retry"):
            answer = client.post(path, data={"which": "all"}, headers=headers)
            assert (answer.status_code, answer.text[:7]) == (403, "Refused"), headers
    assert client.get("/").status_code == 200
    assert client.post("/logout", headers={"Origin": node.url}).status_code == 303


def test_passwords_cannot_be_tried_out(node: Door) -> None:
    client = node.client()
    for _ in range(5):
        assert client.post("/login", data={"name": "admin", "password": "guess"}).status_code == 403
    limited = client.post("/login", data={"name": "admin", "password": password("admin")})
    assert (limited.status_code, limited.headers["retry-after"]) == (429, "60")
    assert node.client(STRANGER).post("/login", data={"name": "admin", "password": "x"}).status_code == 429
    # A name that is not tried out is not held up.
    assert node.enter("viewer")
    for number in range(13):
        answer = client.post("/login", data={"name": f"name{number}", "password": "guess"})
        assert answer.status_code == 403
    # What the sender says of itself makes it no other address.
    for spoofed in ("1.2.3.4", "", PROXY):
        answer = client.post("/login", data={"name": "x"}, headers={"X-Forwarded-For": spoofed})
        assert answer.status_code == 429
    # Behind the proxy, each address counts for itself; the left of the header is hearsay.
    proxy = node.client(PROXY)
    for number in range(21):
        data = {"name": f"other{number}", "password": "guess"}
        answer = proxy.post("/login", data=data, headers={"X-Forwarded-For": f"8.8.8.{number}, 9.9.9.9"})
        assert answer.status_code == (403 if number < 20 else 429)
    assert proxy.post("/login", data={"name": "y"}, headers={"X-Forwarded-For": "9.9.9.8"}).status_code == 403


def test_what_happens_at_the_door_is_written_down(node: Door) -> None:
    client = node.client(STRANGER)
    client.post("/login", data={"name": "my password, by mistake", "password": "secret-typed"})
    client.post("/login", data={"name": "admin", "password": "secret-typed"})
    node.enter("admin", host=STRANGER).post("/logout")
    assert node.events("login_failed") == [
        {"who": "unknown", "address": STRANGER},
        {"who": "admin", "address": STRANGER},
    ]
    assert node.events("logged_in") == [{"who": "admin", "role": "admin", "address": STRANGER}]
    assert node.events("logged_out") == [{"who": "admin"}]


@pytest.mark.parametrize("path", ["/login", "/system/quarantine/retry"])
def test_huge_forms_are_refused(node: Door, path: str) -> None:
    client = node.enter("admin")
    assert client.post(path, data={"name": "a" * (LARGEST_FORM + 1)}).status_code == 413

    def pieces() -> Iterator[bytes]:
        yield b"name="
        for _ in range(40):
            yield b"a" * (1 << 16)

    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert client.post(path, content=pieces(), headers=form).status_code == 413
    assert client.post(path, data={f"f{number}": "1" for number in range(60)}).status_code == 400
    assert client.post(path, files={"a": b"file"}).status_code == 400
    broken = {"Content-Type": "multipart/form-data; boundary=x"}
    assert client.post(path, content=b"nothing of the kind", headers=broken).status_code in (400, 403, 404)


def test_methods_that_there_are_not_are_refused(node: Door) -> None:
    client = node.enter("viewer")
    head = client.head("/")
    assert (head.status_code, head.content) == (200, b"")
    assert node.client().head("/").status_code == 303
    for method in ("OPTIONS", "PUT", "DELETE", "PATCH", "TRACE"):
        assert client.request(method, "/").status_code == 405
    assert client.post("/").status_code == 405
    assert client.get("/logout").status_code == 405


def test_every_answer_keeps_itself_to_itself(node: Door, users: Path) -> None:
    node.app.router.routes.append(page("/broken", _broken, Role.VIEWER))
    client = node.enter("viewer")
    answers = [client.get(path) for path in ("/", "/login", "/none", "/broken", "/static/style.css")]
    answers += [node.client().get("/"), client.post("/system/quarantine/retry"), client.put("/")]
    answers += [client.post("/logout", headers={"Sec-Fetch-Site": "cross-site"})]
    assert [one.status_code for one in answers] == [200, 200, 404, 500, 200, 303, 403, 405, 403]
    for one in answers:
        policy = one.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert one.headers["x-content-type-options"] == "nosniff"
        assert one.headers["x-frame-options"] == "DENY"
        assert one.headers["referrer-policy"] == "no-referrer"
        assert one.headers["cache-control"] in ("no-store", "no-cache")
        assert "server" not in one.headers
        assert "strict-transport-security" not in one.headers
    assert {one.headers["cache-control"] for one in answers if "/static" not in str(one.url)} == {"no-store"}
    assert node.client(PROXY, X_Forwarded_Proto="https").get("/login").headers["strict-transport-security"]


def test_the_cookie_is_for_the_server_alone(node: Door) -> None:
    form = {"name": "viewer", "password": password("viewer")}
    plain = node.client().post("/login", data=form).headers["set-cookie"]
    assert re.fullmatch(rf"{COOKIE}=[\w-]{{43}}; HttpOnly; Path=/; SameSite=lax", plain)
    forwarded = node.client(PROXY, X_Forwarded_Proto="https").post("/login", data=form).headers["set-cookie"]
    assert "Secure" in forwarded
    forged = node.client(X_Forwarded_Proto="https").post("/login", data=form).headers["set-cookie"]
    assert "Secure" not in forged


def _broken(request: Request) -> Response:
    raise ValueError("DOE^JANE was read from /var/lib/secret")


def test_errors_show_nothing_of_the_inside(
    node: Door, users: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    node.app.router.routes.append(page("/broken", _broken, Role.VIEWER))
    client = node.enter("viewer")
    broken = client.get("/broken")
    assert broken.status_code == 500
    users.write_text("this is no TOML", encoding="utf-8")
    unreadable = [client.get("/"), client.get("/login"), client.post("/login", data={"name": "a"})]
    assert [one.status_code for one in unreadable] == [503] * 3
    for answer in (broken, *unreadable):
        for secret in ("DOE", "/var/lib", "Traceback", "ValueError", str(users), "TOML"):
            assert secret not in answer.text


def test_what_is_typed_is_only_ever_text(node: Door) -> None:
    evil = "\"><script>alert(1)</script>'"
    client = node.enter("radiologist")
    for path in ("/login", "/", "/model", "/system"):
        answer = client.get(path, params=dict.fromkeys(("next", "q", "state", "from", "said", "retry"), evil))
        assert answer.status_code == 200
        assert "<script>alert" not in answer.text
    wrong = node.client().post("/login", data={"name": evil, "password": "x", "next": evil})
    assert "<script>alert" not in wrong.text
    pushed = client.get("/", params={"q": "a\r\nX: y"}, headers={"HX-Request": "true"})
    assert pushed.headers["hx-push-url"] == "/?q=a%0D%0AX%3A+y"


def test_the_file_of_users_holds_no_password_and_is_for_its_owner(users: Path) -> None:
    assert users.stat().st_mode & 0o077 == 0
    entries = tomllib.loads(users.read_text(encoding="utf-8"))["users"]
    assert all(one["password"].startswith("$argon2id$") for one in entries.values())


def test_one_page_may_be_asked_for_only_so_often(node: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pacs_node.web.access.REQUESTS_PER_MINUTE", 3)
    client = node.enter("viewer")
    assert [client.get("/system").status_code for _ in range(4)] == [200, 200, 200, 429]
    assert node.enter("admin").get("/system").status_code == 200


def test_nobody_can_log_in_where_there_are_no_users(node: Door, users: Path, database: Database) -> None:
    users.unlink()
    assert "pacs-node users set NAME" in node.client().get("/login").text
    assert node.client().post("/login", data={"name": "", "password": ""}).status_code == 403
