from __future__ import annotations

import random
from typing import Any

import pyarrow as pa
import pytest
from faker import Faker

from kaizenml.data.kinds import normalise
from kaizenml.data.people import detect

ROWS = 300

PERSONAL = {
    "email": "email", "first_name": "first_name", "last_name": "last_name", "full_name": "name", "phone": "phone_number", "street": "street_address",
    "zip": "postcode", "ssn": "ssn", "iban": "iban", "card_number": "credit_card_number", "ip": "ipv4_public", "dob": "date_of_birth",
    "username": "user_name", "work_email": "company_email", "note": "paragraph",
}  # fmt: skip
BY_VALUE_ALONE = {"email", "work_email", "iban", "card_number", "ip", "street", "note", "ssn"}


def things(rng: random.Random, fake: Faker) -> dict[str, list[Any]]:
    """Columns that look like persons' and are none."""
    makers = {
        "uuid": fake.uuid4, "epoch": lambda: rng.randint(1_500_000_000, 1_700_000_000), "digits": lambda: str(rng.randint(10**15, 10**16 - 1)),
        "created": lambda: fake.date_time().isoformat(), "day": fake.date, "sku": lambda: fake.bothify("??-####-??").upper(),
        "release": lambda: ".".join(str(rng.randint(0, 30)) for _ in range(3)),
        "build": lambda: f"{rng.randint(0, 9)}.{rng.randint(0, 30)}.{rng.randint(0, 30)}.{rng.randint(0, 200)}",
        "order_no": lambda: rng.randint(10**8, 10**9), "user_id": lambda: rng.randint(1, 10**6), "city": fake.city, "country": fake.country,
        "company": fake.company, "job": fake.job, "product_name": lambda: rng.choice(["Blue Chair", "Oak Table", "Tall Lamp", "Soft Sofa"]),
        "ean": fake.ean13, "isbn": fake.isbn13, "url": fake.url, "mac_address": fake.mac_address, "hash": fake.md5,
        "tailnum": lambda: f"N{rng.randint(100, 999)}{rng.choice(['AA', 'UA', 'JB'])}", "status": lambda: rng.choice(["open", "closed"]),
        "price": lambda: rng.random() * 100, "amount": lambda: rng.randint(1, 500),
    }  # fmt: skip
    return {name: [maker() for _ in range(ROWS)] for name, maker in makers.items()}


def tables(locale: str) -> tuple[pa.Table, pa.Table]:
    fake, rng = Faker(locale), random.Random(7)
    fake.seed_instance(7)
    people = {name: [str(getattr(fake, maker)()) for _ in range(ROWS)] for name, maker in PERSONAL.items()}
    return normalise(pa.table(people)), normalise(pa.table(things(rng, fake)))


@pytest.mark.slow
@pytest.mark.parametrize("locale", ["en_US", "fr_FR", "pl_PL"])
def test_personal_columns_are_found_and_their_look_alikes_are_not(locale: str) -> None:
    people, others = tables(locale)
    found = detect.detect(people)
    # recall 15 of 15 columns under their names
    assert set(found) == set(PERSONAL), set(PERSONAL) - set(found)
    assert (found["iban"].kind, found["card_number"].kind, found["ip"].kind, found["note"].kind) == ("iban", "card", "ip", "free_text")
    # no false positive in 24 columns
    assert detect.detect(others) == {}


@pytest.mark.slow
def test_what_has_a_check_digit_or_a_form_is_found_without_a_name() -> None:
    people, others = tables("en_US")
    hidden = people.rename_columns([f"c{at}" for at in range(people.num_columns)])
    found = {list(PERSONAL)[int(name[1:])] for name in detect.detect(hidden)}
    assert found >= BY_VALUE_ALONE  # 10 of 15 in all: surnames, dates of birth, postcodes and user names need their column's name
    assert detect.detect(others.rename_columns([f"c{at}" for at in range(others.num_columns)])) == {}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("customerFirstName", "name"), ("Nachname", "name"), ("prénom", "name"), ("fecha_nacimiento", "birth_date"), ("Straße", "address"),
        ("codice fiscale", "national_id"), ("PhoneNumber2", "phone"), ("kod_pocztowy", "postcode"), ("client_ip", "ip"),
        ("product_name", None), ("mac_address", None), ("nom_produit", None), ("user_id", None), ("capacity", None), ("host_ip", None),
    ],
)  # fmt: skip
def test_names_of_columns_are_read_in_several_languages(name: str, kind: str | None) -> None:
    assert detect.hint(name) == kind


def test_a_few_emails_among_other_values_are_enough() -> None:
    values = ["none"] * 95 + [f"person{at}@example.org" for at in range(5)]
    assert detect.detect(pa.table({"contact": values}))["contact"].kind == "email"


def test_a_column_that_is_hidden_already_is_not_found_again() -> None:
    assert detect.detect(pa.table({"email": ["kzp_" + "0" * 32, "kzp_" + "1" * 32]})) == {}


def test_a_line_of_a_file_is_shown_by_its_shape_only_where_it_tells_of_a_person() -> None:
    assert detect.line("17,4.5,open") == "17,4.5,open"
    assert detect.line("Ada,1815-12-10", ["first_name", "born"]) == "Xxx,9999-99-99"
    assert detect.line("17,ada@example.org") == "99,xxx@xxxxxxx.xxx"
