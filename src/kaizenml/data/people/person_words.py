"""Words by which columns that tell of persons are recognised: in their names, in several languages, and in their values.

All are written without accents and in lower case, as ``detect`` compares them. A name of several words is matched as a run.
"""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


COLUMNS: dict[str, tuple[str, ...]] = {
    "email": ("email", "e mail", "mail", "correo", "courriel", "emailadresse", "posta elettronica"),
    "phone": (
        "phone", "telephone", "tel", "mobile", "cell", "cellphone", "fax", "msisdn", "telefon", "telefonnummer", "handy", "handynummer", "mobil",
        "telefono", "movil", "celular", "cellulare", "telefone", "telemovel", "portable", "telefoon", "telefoonnummer", "gsm", "puhelin", "tlf",
        "komorka", "mobilnummer", "phonenumber", "mobilephone", "whatsapp",
    ),
    "name": (
        "first name", "firstname", "last name", "lastname", "surname", "family name", "familyname", "full name", "fullname", "given name",
        "givenname", "middle name", "maiden name", "customer name", "client name", "patient name", "employee name", "contact name",
        "person name", "holder name", "cardholder", "card holder", "student name", "member name", "guest name", "passenger name",
        "recipient name", "user full name", "vorname", "nachname", "familienname", "prenom", "nom", "nom de famille", "nombre", "apellido",
        "apellidos", "nombre completo", "cognome", "nome", "nome completo", "sobrenome", "apelido", "imie", "nazwisko", "voornaam", "achternaam",
        "etunimi", "sukunimi", "fornavn", "etternavn", "efternavn", "fornamn", "efternamn", "jmeno", "prijmeni", "fname", "lname",
    ),
    "birth_date": (
        "dob", "birth date", "birthdate", "birthday", "date of birth", "date birth", "born on", "geburtsdatum", "geburtstag", "date naissance",
        "date de naissance", "fecha nacimiento", "fecha de nacimiento", "data nascita", "data di nascita", "data nascimento",
        "data de nascimento", "geboortedatum", "data urodzenia", "fodselsdato", "fodselsdag", "fodelsedatum", "syntymaaika", "datum narozeni",
    ),
    "address": (
        "address", "addr", "street", "street address", "home address", "address line", "adresse", "anschrift", "strasse", "rue", "calle",
        "direccion", "domicilio", "indirizzo", "via", "endereco", "morada", "adres", "ulica", "straat", "osoite", "adresa", "wohnort",
    ),
    "postcode": ("zip", "zipcode", "zip code", "postcode", "post code", "postal code", "postalcode", "plz", "postleitzahl", "code postal",
                 "codigo postal", "cep", "kod pocztowy", "postnummer", "postinumero"),
    "username": ("username", "user name", "login", "loginname", "screen name", "screenname", "nickname", "nick", "handle", "usr",
                 "benutzername", "nom utilisateur", "usuario", "nombre usuario", "utente", "gebruikersnaam"),
    "national_id": (
        "ssn", "social security", "social security number", "passport", "passport number", "passport no", "national id", "nationalid",
        "national insurance", "nino", "tax id", "taxid", "tin", "nif", "nie", "dni", "bsn", "pesel", "cpf", "nir", "curp", "aadhaar", "aadhar",
        "steuer id", "steuernummer", "sozialversicherungsnummer", "svnr", "ausweisnummer", "personnummer", "personalausweis", "cpr",
        "codice fiscale", "numero securite sociale", "driver license", "drivers license", "driving licence", "license number",
        "fuhrerschein", "henkilotunnus", "hetu", "rodne cislo", "fodselsnummer",
    ),
    "ip": ("ip", "ip address", "ipaddress", "ipaddr", "ip addr", "client ip", "remote addr", "ipv4", "ipv6"),
    "card": ("card number", "cardnumber", "credit card", "creditcard", "kartennummer", "numero carte", "numero tarjeta"),
    "iban": ("iban", "bank account", "account iban", "kontonummer"),
}  # fmt: skip

OF_THINGS = _words(
    "product item file host domain server app device model brand company firm org organisation organization team event page campaign airport airline "
    "carrier station shop store city country region state category column table field sensor machine job task course book song movie game dog pet "
    "mac web url memory wallet produit fichier marque ville entreprise societe magasin producto archivo marca ciudad empresa tienda "
    "prodotto citta azienda negozio produkt artikel datei marke stadt firma geschaft produto cidade loja"
)
"""Words beside ``name``, ``address`` and the like that say that a thing, not a person, is meant."""

REMARKS = _words(
    "note notes comment comments remark remarks message text body description review feedback complaint notiz notizen kommentar bemerkung "
    "bemerkungen nachricht remarque remarques commentaire avis message nota notas comentario comentarios observaciones mensaje osservazioni "
    "commento messaggio observacoes opmerking opmerkingen bericht uwagi komentarz"
)
"""Words in the names of columns in which people write what they like."""

STREETS = _words(
    "street road avenue lane drive boulevard court place square terrace highway crescent parkway alley route suite apt rd ave blvd "
    "strasse str platz weg gasse allee rue chemin impasse quai calle avenida paseo plaza camino carrera via viale piazza corso "
    "rua travessa praca straat laan plein gracht ulica ul aleja plac gata gatan vagen vej gade katu tie"
)
"""Words of postal addresses; together with a house number they make one."""

GIVEN = _words(
    "james john robert michael william david richard joseph thomas charles christopher daniel matthew anthony mark donald steven paul andrew "
    "joshua kenneth kevin brian george timothy ronald edward jason jeffrey ryan jacob gary nicholas eric jonathan stephen larry justin scott "
    "brandon benjamin samuel gregory alexander frank patrick raymond jack dennis jerry tyler aaron jose adam nathan henry peter zachary kyle "
    "walter ethan jeremy harold keith christian roger noah gerald carl terry sean austin arthur lawrence jesse dylan bryan joe jordan billy "
    "bruce albert willie gabriel logan alan juan wayne roy ralph randy eugene vincent russell louis philip bobby johnny bradley oliver harry "
    "mary patricia jennifer linda elizabeth barbara susan jessica sarah karen lisa nancy betty margaret sandra ashley kimberly emily donna "
    "michelle carol amanda dorothy melissa deborah stephanie rebecca sharon laura cynthia kathleen amy angela shirley anna brenda pamela emma "
    "nicole helen samantha katherine christine debra rachel carolyn janet catherine maria heather diane ruth julie olivia joyce virginia "
    "victoria kelly lauren christina joan evelyn judith megan andrea cheryl hannah jacqueline martha gloria teresa ann sara madison frances "
    "kathryn janice jean abigail alice julia judy sophia grace denise amber doris marilyn danielle beverly isabella theresa diana natalie "
    "brittany charlotte marie kayla alexis lori tracy crystal erin tiffany courtney robin leslie dawn chad derek jill holly allison monica "
    "hans klaus jurgen wolfgang dieter manfred uwe gunter horst bernd jorg stefan andreas matthias markus sabine petra monika ursula renate "
    "brigitte ingrid gisela claudia birgit heike katrin anja silke lukas leon finn jonas felix maximilian lena mia lea johanna franziska "
    "pierre michel philippe alain nicolas laurent francois christophe julien olivier antoine guillaume thibault mathieu isabelle nathalie "
    "sylvie catherine francoise monique valerie sandrine aurelie camille manon chloe lucas hugo louis gabriel emile margaux odette margot "
    "antonio manuel francisco javier carlos miguel angel luis pedro jorge alberto alejandro pablo sergio fernando rafael diego carmen josefa "
    "isabel dolores pilar teresa rosa cristina mercedes lucia elena raquel marta beatriz rocio silvia giuseppe giovanni mario luigi salvatore "
    "vincenzo pietro marco francesco luca matteo alessandro lorenzo giulia chiara francesca valentina paola giovanna rosa elisa "
    "joao tiago rui paulo ricardo ana catarina ines mariana piotr krzysztof andrzej tomasz jan pawel michal marcin jakub adam agnieszka "
    "malgorzata katarzyna barbara ewa krystyna magdalena monika jadwiga zofia johannes pieter willem hendrik sophie sanne anouk lars erik "
    "anders nils bjorn sven karin astrid ingrid kristina mikko juha matti pekka anne liisa jan jiri josef pavel petr jana eva hana lenka "
    "ahmed mohamed muhammad mohammed ali hassan omar fatima aisha khadija mehmet mustafa ayse fatma emine wei li ming jun yan hiroshi yuki "
    "kenji sakura raj amit priya anita sanjay deepak rahul pooja ivan dmitri sergei olga natalia tatiana svetlana vladimir igor"
)
"""Common given names, enough to tell a column of persons from one of things where its name says nothing."""
