"""The token: kept as a hash, compared without a hint, and guessed at only a few times a minute."""

import stat

import pytest
from support.openvla_program import run
from support.policy_doors import Mirror, mirror_server, post, raw, running

from openvla_ros.errors import InvalidValueError
from openvla_ros.serving import tokens
from openvla_ros.serving.server import PolicyServer
from openvla_ros.serving.tokens import DoorKeeper, TokenHash, make_token, read_token_hash

HASH = TokenHash.of("right")


def test_the_file_has_a_hash_and_is_for_its_owner_only(tmp_path):
    path = tmp_path / "token"
    token = make_token(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert token not in path.read_text()
    found = read_token_hash(path)
    assert found.matches(token)
    assert not found.matches(token + "x")
    with pytest.raises(InvalidValueError, match="File exists"):
        make_token(path)
    path.chmod(0o640)
    with pytest.raises(InvalidValueError, match="can be read by other users; chmod 600"):
        read_token_hash(path)


def test_two_files_of_one_token_differ():
    assert TokenHash.of("a").to_text() != TokenHash.of("a").to_text()


@pytest.mark.parametrize(
    "text",
    ["right", "", "scrypt$1$1$1$$", "scrypt$16384$8$1$!$!", HASH.to_text() + "$"],
    ids=["a token", "nothing", "another cost", "no base64", "one part more"],  # the salt differs each time
)
def test_a_file_that_has_no_hash_is_named_with_the_way_out(tmp_path, text):
    path = tmp_path / "token"
    path.write_text(text)
    with pytest.raises(InvalidValueError, match="token is not a hashed token; openvla serve --make-token"):
        read_token_hash(path)


def test_the_command_prints_the_token_once_and_never_the_hash(tmp_path):
    path = tmp_path / "token"
    said = run("serve", "--make-token", path).output.strip().splitlines()[-1]
    assert read_token_hash(path).matches(said)


def test_wrong_tokens_of_one_address_are_counted_and_others_are_heard(monkeypatch):
    door, computed = DoorKeeper(HASH), []
    scrypt = tokens._scrypt
    monkeypatch.setattr(tokens, "_scrypt", lambda *values: computed.append(1) or scrypt(*values))
    for _ in range(20):
        assert not door.admits("Bearer wrong", "10.0.0.1")
    assert len(computed) == tokens.MOST_WRONG
    assert not door.admits("Bearer right", "10.0.0.1")  # shut out: not even looked at
    assert door.admits("Bearer right", "10.0.0.2")
    # Known by now, it opens the door for the robot that shares an address with a guesser.
    assert door.admits("Api-Key right", "10.0.0.1")
    assert len(computed) == tokens.MOST_WRONG + 1


def test_an_address_is_heard_again_after_a_while(monkeypatch):
    monkeypatch.setattr(tokens, "WINDOW_S", 0.0)
    door = DoorKeeper(HASH)
    for _ in range(tokens.MOST_WRONG):
        door.admits("Bearer wrong", "10.0.0.1")
    assert door.admits("Bearer right", "10.0.0.1")


def test_what_is_remembered_of_addresses_is_bounded(monkeypatch):
    monkeypatch.setattr(tokens, "_scrypt", lambda *_: b"")
    door = DoorKeeper(TokenHash(b"", b"x"))
    for number in range(3000):
        assert not door.admits("Bearer wrong", f"10.0.{number // 256}.{number % 256}")
    assert len(door._wrong) == tokens.MOST_ADDRESSES


@pytest.mark.parametrize("given", ["", "right", "Bearer", "Bearer ", "Basic right", "Bearer " + "x" * 5000])
def test_what_is_no_token_of_ours_is_no_guess_that_costs_time(given, monkeypatch):
    monkeypatch.setattr(tokens, "_scrypt", lambda *_: b"")
    assert not DoorKeeper(TokenHash(b"", b"x")).admits(given, "10.0.0.1")


def test_a_wrong_one_a_missing_one_and_one_too_many_are_answered_alike():
    with mirror_server(token="secret") as (policy, server):
        request = b"POST /act HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nConnection: close\r\n%s\r\n"
        answers = {
            raw(server.port, request % header).partition(b"Date")[0]
            for header in (b"", *[b"Authorization: Bearer wrong\r\n"] * 8, b"Authorization: Basic x\r\n")
        }
        assert len(answers) == 1
        assert answers.pop().startswith(b"HTTP/1.1 401")
        assert post(server.port, b"{}", ["Authorization: Bearer secret"])[0] == 401  # shut out
        assert not policy.asked


@pytest.mark.parametrize(
    ("options", "missing"),
    [
        ({}, "--make-token FILE and openvla serve --make-certificate FOLDER makes"),
        ({"token": "t"}, "openvla serve --make-certificate FOLDER makes .* --without-tls serves unencrypted"),
        ({"without_tls": True}, "openvla serve --make-token FILE makes"),
    ],
)
def test_other_machines_are_served_only_with_a_token_and_tls(options, missing):
    with pytest.raises(InvalidValueError, match=missing):
        PolicyServer(Mirror(), "0.0.0.0", 0, **options)


def test_other_machines_are_served_unencrypted_if_that_is_wanted():
    with running(PolicyServer(Mirror(), "0.0.0.0", 0, "t", without_tls=True)) as server:
        assert post(server.port, b"{}", ["Authorization: Bearer t"])[0] == 422


def test_the_command_says_so_before_anything_is_loaded():
    with pytest.raises(InvalidValueError, match="serving there needs a token and TLS"):
        run("serve", "no/such/model", "--host", "0.0.0.0")
