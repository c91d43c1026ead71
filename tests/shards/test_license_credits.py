"""Statements about rights are not taken for the name of a photographer, in whichever language and script."""

from __future__ import annotations

import pytest

from raysys.shards.licenses import UNKNOWN, normalize

NOT_CREDITS = (
    # in scripts without capital letters
    "CC BY 4.0, © 版权所有",
    "CC BY 4.0, © 保留所有权利",
    "CC BY 4.0, © 版權所有",
    "CC BY 4.0; Credit: 非商业用途",
    "CC BY 4.0; Credit: 仅供个人",
    "CC BY 4.0, © 未经许可不得转载",
    "CC BY 4.0, © 무단 전재 금지",
    "CC BY 4.0, © 비영리",
    "CC BY 4.0, © 저작권 소유",
    "CC BY 4.0, © جميع الحقوق محفوظة",
    "CC BY 4.0, © כל הזכויות שמורות",
    "CC BY 4.0, © सर्वाधिकार सुरक्षित",
    "CC BY 4.0, © สงวนลิขสิทธิ์",
    "CC BY 4.0, © Jane Doe ყველა უფლება",
    # in Title Case
    "CC BY 4.0, © Nicht Kommerziell",
    "CC BY 4.0, © Keine Kommerzielle Nutzung",
    "CC BY 4.0, © Nutzung Untersagt",
    "CC BY 4.0, © Uso Vietato",
    "CC BY 4.0, © Uso Vetado",
    "CC BY 4.0, © Sin Fines Comerciales",
    "CC BY 4.0, © Riproduzione Riservata",
    "CC BY 4.0, © Proibida A Venda",
    "CC BY 4.0, © Ej Kommersiellt",
    "CC BY 4.0, © Alla Rättigheter Förbehålls",
    "CC BY 4.0, © Alle Rettigheder Forbeholdes",
    "CC BY 4.0, © Kaikki Oikeudet Pidätetään",
    "CC BY 4.0, © Wszelkie Prawa Zastrzeżone",
    "CC BY 4.0, © Všechna Práva Vyhrazena",
    "CC BY 4.0, © Minden Jog Fenntartva",
    "CC BY 4.0, © Toate Drepturile Rezervate",
    "CC BY 4.0, © Tüm Hakları Saklıdır",
    "CC BY 4.0, © Hak Cipta Dilindungi",
    "CC BY 4.0, © Bảo Lưu Mọi Quyền",
    "CC BY 4.0, © Все Права Защищены",
    "CC BY 4.0, © Копирование Запрещено",
    "CC BY 4.0, © Некоммерческое Использование",
    "CC BY 4.0, © Με Επιφύλαξη Παντός Δικαιώματος",
    "CC BY 4.0, © TDM Opt-Out",
    "CC BY 4.0, © ARR",
    "CC BY 4.0; Credit: Fair Dealing",
    "CC BY 4.0; Author: Revoked",
    "CC BY 4.0; Author: Withdrawn",
)


@pytest.mark.parametrize("text", NOT_CREDITS)
def test_a_statement_about_rights_is_not_a_credit_line(text: str):
    assert normalize({"license": text}) == (UNKNOWN, f"license={text}")
