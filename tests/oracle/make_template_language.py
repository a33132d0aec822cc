#!/usr/bin/env python3
"""Makes tests/data/template-language/goldens.json: what jinja2, set up by transformers, makes of several hundred small templates.

Needs transformers and jinja2. Usage: make_template_language.py

A case has `template` and `text`, or `error` (jinja2's kind of error) and, where the template called raise_exception, its
words as `refusal`. A case with `lacked` is one that Lathe does not have: its error names line 1 and these words.
The clock stands still at 26 July 2024, as in Lathe. All cases see the same messages, tools, bos_token and eos_token.
"""
import json
import pathlib

import jinja2
from transformers.utils import chat_template_utils

from make_public_templates import Clock

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "data" / "template-language"

MESSAGES = [
    {"role": "system", "content": " Be brief. "},
    {"role": "user", "content": "Grüße, it's \"7\" <b>\n\tx", "n": 7, "f": 2.5, "big": 1e16, "small": 1.5e-7, "yes": True, "no": False,
     "list": [3, 1, 2], "words": ["pear", "Apple", "fig", "apple"], "map": {"b": 1, "a": {"items": [1], "get": "G"}, "C": None},
     "rows": [{"k": "x", "v": 2}, {"k": "y", "v": 1}, {"k": "x", "v": 3}, {"v": 4}], "empty": "", "nil_list": [], "nil_map": {},
     "minus": -3, "lines": "a\n\nb\r\nc\x0bd\n", "uni": "é中😀\u00a0\x7f\u2028", "nested": [[1, "a"], [2, "b"]], "html": "<a href='x'>&</a>"},
    {"role": "assistant", "content": "<think>\nhm\n</think>\n\nYes.", "tool_calls": [
        {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"a": 1, "b": [True, None, 1.0, "ü"], "c": {}, "d": []}}}]},
    {"role": "tool", "content": "{\"r\": 1}", "name": "f", "tool_call_id": "1"},
]
TOOLS = [{"type": "function", "function": {"name": "f", "description": "d \"q\" ü", "parameters": {
    "type": "object", "properties": {"a": {"type": "array", "items": {"type": "string"}}, "b": {"type": "integer"}}, "required": ["a"]}}}]

M = "{% set m = messages[1] %}"


def printed(*expressions):
    return [f"{M}{{{{ {one} }}}}" for one in expressions]


WHITE_SPACE = [
    "", "\n", "\n\n", "a\n", "a\n\n", "a\r\nb\rc\n", "  {% if true %}  \n  x\n  {% endif %}  \n  y", "a {% if true %}\n b {% endif %}\n c",
    "a\n  {%+ if true %}\n b\n  {%+ endif +%}\n c", "a  {%- if true -%}  b  {%- endif -%}  c", "a\n {{ 1 }}\n {{- 2 -}} \n b",
    "a  \n\n {{- 1 }}  b", "{# c #}\n x {#- c -#} \n y", "a\n  {# c #}\nb", "a {# x\ny #} b", "{##}x", "{#-#}x", "{# {{ x }} {% if %} #}x",
    "{% raw %}\n {{ x }} {% if %}\n{% endraw %}\n y", "a\n  {% raw %} {{ b }}{% endraw %}", "a  {%- raw -%}  {{ b }}  {%- endraw -%}  c",
    "{% raw %}a{% endraw %}{% raw %}b{% endraw %}", "{% raw -%}\n a \n  {% endraw %}\nb", "{%raw%}{%endraw%}", "{% raw +%}a{% endraw %}",
    "\t{% set x = 1 %}\n\t{{ x }}", "  \t {% if true %}x{% endif %}", "x  {% if true %}y{% endif %}",
    "{% for i in [1, 2] %}\n{{ i }}\n{% endfor %}\n", "{% for i in [1, 2] -%}\n{{ i }}\n{%- endfor %}\n", "{%- for i in [1, 2] %} {{- i }} {%- endfor -%}",
    "a{{ '\n' }}\n  {% if true %}b{% endif %}", "{{ 'a' }}\n{% if true %}\nb\n{% endif %}\n", "a -{{ 1 }}- b", "{{-1}}", "{{+1}}", "{{ -1 -}} x", "{{--1}}",
    "\u00a0{% if true %}x{% endif %}", "a\n\u3000{%- if true %}x{% endif %}", "{% if true %}\n\n\nx{% endif %}", "{{ 1 }}\n\n", "{%- if true %}\n  x\n{%- endif %}\n\n",
    "{ {x} } {", "a } b %} }} #}", "{", "{{ '{{' }}{{ '}}' }}", "{{ {'a': {'b': 1}}['a']['b'] }}", "{{ {'a': {'b': 1}} }}", "  {#- a -#}  x",
    "x\n  {#- a #}\n  y", "x\n  {%- set a = 1 %}\n  y", "a\n \n{% if true %}b{% endif %}", "{% if true +%}\n x{% endif %}", "{{ 1\n+\n2 }}\n{{ 3 }}",
    "{% set x %}\n a\n{% endset %}\n[{{ x }}]", "{{ 1 }} {%- if true %} a{% endif %}", "{%\nif true\n%}a{%\nendif\n%}", "{{ '' }}  {% if true %}x{% endif %}",
]

LITERALS = [
    "{{ 1_000 }}", "{{ 007 }}", "{{ 00 }}", "{{ 0x1F }}", "{{ 0b101 }}", "{{ 0o17 }}", "{{ 1e3 }}", "{{ 1.5e-7 }}", "{{ 1E16 }}", "{{ 1.0 }}", "{{ 1. }}", "{{ .5 }}", "{{ 1e400 }}",
    "{{ 123456789012345678901234567890 }}", "{{ 1.10 }}", "{{ 0.1 + 0.2 }}", "{{ 1e15 }}", "{{ 1e16 }}", "{{ 123456789.123456789 }}", "{{ 1e-4 }}", "{{ 1e-5 }}", "{{ -0.0 }}",
    r"{{ 'a\nb\tc\\d\'e\"f' }}", r'{{ "a\nb\x41\u00e9\U0001F600" }}', r"{{ '\q' }}", r"{{ '\101\7' }}", r"{{ '\
x' }}", r"{{ '\é' }}", r"{{ '\x4' }}", r"{{ '\u12' }}", r"{{ '\N{BULLET}' }}", "{{ 'a' \"b\" 'c' }}", "{{ 'unterminated }}", "{{ 'é中😀' }}", "{{ 'a\r\nb' }}",
    "{{ true }}{{ True }}{{ false }}{{ False }}{{ none }}{{ None }}", "{{ [] }}{{ () }}{{ {} }}", "{{ [1, 'a', none, true, 1.0, [2], (3,), {'k': 'v'}] }}", "{{ (1, 2) }}", "{{ (1,) }}", "{{ (1) }}",
    "{{ 1, 2 }}", "{{ 1, }}", "{{ [1, 2,] }}", "{{ {'a': 1, 'b': 2,} }}", "{{ {'a': 1, 'a': 2} }}", "{{ [,] }}", "{{ 'it\\'s' }}{{ [\"it's\", 'q\"', \"it's q\\\"\", 'a\\nb\\\\'] }}",
    "{{ ['é中😀\u00a0\x7f\u00ad\u2028\u200b\ufeff'] }}", "{{ ['\x00\x1b'] }}", "{{ }}", "{{ 1 2 }}", "{{ 1 + }}", "{{ a b }}", "{{ ) }}", "{{ (1 }}", "{{ [1) }}", "{{ 1 }", "{% %}", "{{ $ }}", "{{ a; b }}", "{{ 'a' . b }}",
    "{% if %}x{% endif %}", "{% if true %}x", "{% endif %}", "{% for x %}{% endfor %}", "{% nosuch %}", "{% set x %}", "{% set 1 = 2 %}", "{% set true = 1 %}", "{% for true in [1] %}{% endfor %}", "{% if true %}{% else %}{% else %}{% endif %}",
    "{% else %}", "{% for a in [1] %}{% endif %}", "{# no end", "{% raw %} no end", "{{ x", "{% set x = %}", "{% elif true %}", "{% if true %}a{% elif %}b{% endif %}", "{% break %}", "{% macro m( %}{% endmacro %}",
    "{{ 1if true else 2 }}", "{{ 1.e }}", "{{ 'a'if true }}", "{{ not }}", "{{ x is }}", "{{ x | }}", "{{ x. }}", "{{ x[] }}", "{{ {'a'} }}", "{{ {1: 2}[1] }}", "{{ f(a=1, 2) }}",
]

OPERATORS = printed(
    "1 + 2 * 3", "(1 + 2) * 3", "2 ** 3 ** 2", "-2 ** 2", "2 ** -1", "2 ** 0.5", "0 ** 0", "7 // 2", "-7 // 2", "7 // -2", "-7 // -2", "7 % 3", "-7 % 3", "7 % -3", "7.5 % 2", "-7.5 % 2", "5.5 // 2",
    "-5.5 // 2", "1 / 2", "4 / 2", "1 / 0", "1 // 0", "1 % 0", "1.0 / 0", "5.3 % 0.1", "1 - 2 - 3", "8 / 2 / 2", "1 + 2 ~ 3 * 4", "'a' ~ 1 + 2", "'a' ~ none ~ true ~ 1.0 ~ [1]", "'a' + 'b'", "'a' + 1",
    "1 + 'a'", "'a' * 3", "3 * 'ab'", "'a' * -1", "[1] * 2", "[1] + [2]", "(1,) + (2,)", "[1] + (2,)", "true + 1", "true * 3", "-true", "+true", "-'a'", "+'a'", "- - 1", "none + 1", "1 < 2 < 3", "1 < 3 < 2",
    "1 == 1.0", "1 == true", "'1' == 1", "[1] == (1,)", "[1, 2] < [1, 3]", "[1] < [1, 2]", "(1, 'a') < (1, 'b')", "'a' < 'b'", "'a' < 1", "none < 1", "none == none", "'Z' < 'a'", "1 != 2", "1 <> 2", "true > false",
    "{'a': 1} == {'a': 1.0}", "{'a': 1, 'b': 2} == {'b': 2, 'a': 1}", "'a' in 'abc'", "'' in 'abc'", "1 in [1, 2]", "1 in (2,)", "'a' in {'a': 1}", "1 in 'abc'", "none in [none]", "'a' not in 'abc'", "not 'a' in 'abc'",
    "not true == false", "not not 1", "1 in 1", "1 and 2", "0 and 2", "0 or 'x'", "'' or none or 3", "none and x.y", "1 or x.y", "not none", "true and not false", "false or true and false", "1 if true else 2", "1 if false else 2",
    "1 if false", "1 if true else 2 if true else 3", "(1 if false) is defined", "1 if 0 else 2 if 0 else 3", "'x' if m.empty else 'y'", "'x' if m.nil_list else 'y'", "'x' if 0.0 else 'y'", "1 is eq 1 and 2 is eq 2", "2 + 3 is odd",
    "(2 + 3) is odd", "-1|abs", "-(1)|abs", "(-1)|abs", "-2.5|abs", "1 + -1|abs", "'a' 'b'|upper", "'a' ~ 'b'|upper", "'a' + 'b'|upper", "('a' + 'b')|upper", "1|string + '2'", "not x", "not x is defined", "x is not defined", "not (x is defined)",
    "10 // 3 * 3 + 10 % 3", "2 * 3 % 4", "7 - 2 ~ 1", "1 ~ 2 == '12'", "1 ~ 2 == 12", "2 > 1 and 3 > 2 or false", "'abc' > 'abd' or 1", "[1, 2][0] + 1", "{'a': 1}.a + 1", "[[1, 2], [3]][0][1]", "9007199254740993 + 0.0", "1e308 * 10", "-1e308 * 10", "1e308 * 10 - 1e308 * 10",
    "3 is divisibleby 3", "'%s-%d' % ('a', 3)", "5 % 2 == 1", "10 ** 20", "1.5 + 1", "3.0", "2 ** 62 * 2", "'a' is string and 1 is number", "1 == 1 == 1", "1 in [1] == true", "not 1 in [2]", "1 - -1", "1--1", "1+-+1", "[] or {} or '' or 0 or none or false or 'z'",
    "true is true", "1 is true", "0 is false", "none is none", "x is none", "1_0 + 1", "'b' in ['a', 'b'] and 'x' or 'y'", "(1, 2) == (1, 2)", "[none, true] == [none, 1]", "'a' == 'a' in ['a']", "2 < 10", "'2' < '10'",
)

UNDEFINED = printed(
    "x", "x ~ 'a'", "x.y", "x['y']", "x[0]", "m.x", "m.x.y", "m['x']", "m['x']['y']", "x + 1", "1 + x", "'a' + x", "x * 2", "-x", "x < 1", "x == x", "x == y", "x == none", "x != 1", "x == ''", "x in 'a'", "x in ['a']", "'a' in x", "x|length", "x|list", "x|join(',')",
    "x|upper", "x|trim", "x|default('d')", "x|default", "x|d('e')", "none|default('d')", "none|default('d', true)", "''|default('d', true)", "''|default('d', boolean=true)", "m.x|default('d')", "m.x.y|default('d')", "x|int", "x|float", "x|tojson", "[x]|tojson", "[x]", "x|string", "x()", "m.x()", "x.y()", "x if x else 'no'", "x is defined",
    "x is undefined", "m.x is defined", "m.x.y is defined", "x is string", "x is mapping", "x is iterable", "x is sequence", "x is number", "x is none", "x is callable", "x|first", "x|last", "x|reverse|list", "x|sort", "x|items|list", "x|map('upper')|list", "x|replace('a', 'b')", "x|abs", "x|round", "x|sum", "x|unique|list", "x|select|list",
    "messages[10]", "messages[10].role", "messages[-1].role", "messages[-10]", "'abc'[5]", "none.x", "none['x']", "none.x.y", "5.x", "5[0]", "(5).x", "true.x", "messages.x", "messages['x']", "messages[1.5]", "messages[none]", "m[0]", "m[none]", "'abc'['x']", "'abc'.x", "m.role.x", "x[:1]", "none[:1]", "5[:1]", "m[:1]", "x and 1", "x or 1", "not x", "x ~ x == ''",
    "m.no is defined", "m.map.C is defined", "m.map.C is none", "m.map.C", "loop", "loop.index", "self", "caller", "varargs", "x is eq none", "x|tojson|default('d')", "x|lower", "x|title", "x|capitalize", "x|indent", "x|min", "x|max", "x|dictsort", "x|attr('a')", "x|wordcount", "x|selectattr('a')|list", "none|length", "none|list", "none|items", "none|first", "none|join", "none|upper", "none|trim", "none|string ~ '!'", "5|length", "5|list", "5|first", "true|length",
) + [
    "{% for i in x %}a{% else %}b{% endfor %}", "{% for i in none %}a{% endfor %}", "{% for i in 5 %}a{% endfor %}", "{% if x %}a{% else %}b{% endif %}", "{% if x.y %}a{% endif %}", "{% if x is defined and x.y %}a{% else %}b{% endif %}",
    "{% set x = x %}[{{ x }}]", "{% if messages[0].x is defined %}a{% else %}b{% endif %}", "{% for a, b in [1] %}{% endfor %}", "{% for a, b in ['xy'] %}{{ b }}{{ a }}{% endfor %}", "{% for a, b in [[1, 2, 3]] %}{% endfor %}", "{% set a, b = [1] %}",
]

ATTRIBUTES = printed(
    "m.items is defined", "m['items'] is defined", "m.map.items is callable", "m.map.a.items is callable", "m.map.a['items']", "m.map.a['get']", "m.map.a.get('get')", "m.map['items'] is callable", "m.map['nope'] is defined", "m.get('n')", "m.get('x')", "m.get('x', 5)", "m.get('x', default=5)", "m.map.keys()|list", "m.map.values()|list", "m.map.items()|list",
    "m.map.items()|length", "m.map.items()[0]", "m.map.keys()", "m.map.values()", "m.map.items()", "'b' in m.map.keys()", "('b', 1) in m.map.items()", "m.map|items|list", "m.map|length", "m.nil_map.items() or 'empty'", "m.map.items() and 'full'", "m.map.copy()", "m.map.pop('a')", "m.map.update({'z': 1})", "m.list.append(1)", "m.list.index(1)", "m.list.count(3)", "m.list.index(9)", "m.list.length", "m.list.0", "m.words.1", "m.list['0']",
    "m.list[true]", "m.list[-1]", "m.list[0:2]", "m.list[::-1]", "m.list[::2]", "m.list[5:]", "m.list[-2:]", "m.list[:-1]", "m.list[2:0:-1]", "m.list[::0]", "m.list[none:2]", "m.list['a':]", "m.list[1.0:]", "'abcdef'[1:4]", "'abcdef'[::-1]", "'abcdef'[-3:-1]", "'é中😀x'[1:3]", "'é中😀x'[2]", "'abc'[10:]", "'abc'[-10:2]", "'abcdef'[4:1:-2]", "'abcdef'[::-2]", "(1, 2, 3)[1:]", "m.list[100:200:7]", "range(5)[1:3]|list", "range(3)|list", "range(1, 4)|list", "range(5, 0, -2)|list", "range(3)|length", "range(3)[1]", "range(3)[-1]",
    "range(0) or 'empty'", "range(3)|tojson", "range(3)|join(',')", "range(1.5)", "range()", "range(1, 2, 0)", "range(1000000)|length", "2 in range(3)", "range(3)|first", "range(3)|last", "range(3)|sum", "[1] + range(2)", "m.uni|length", "m.role.upper()", "m.role.upper", "m.role.upper is callable", "m.__class__", "m.role.__len__()", "''.__class__ is defined", "dict(a=1)", "dict({'a': 1}, b=2)", "dict([['a', 1]])", "dict()", "namespace(a=1).a", "namespace({'a': 1}).a",
    "namespace(a=1).b", "namespace(a=1)['a']", "namespace(a=1).b is defined", "raise_exception is callable", "range is callable", "nosuch is callable", "joiner is defined", "tools[0].function.name", "tools|length", "tools[0]['function']['parameters']['properties'].items()|length", "tools[0].function.parameters.properties.a['items'].type", "tools[0].function.parameters.properties.b['items'].type", "tools[0].function.parameters.properties.b['items'] is defined",
    "tools[0].function.parameters.properties.b.items.type", "tools[0].function.parameters.properties.b.enum is defined", "documents is none", "documents is defined", "add_generation_prompt", "bos_token ~ eos_token", "pad_token is defined", "unk_token", "messages is sequence", "messages is mapping", "messages[0] is mapping", "messages[2].tool_calls[0].function.arguments is mapping", "messages[2].tool_calls[0].function.arguments.b", "messages|first == messages[0]", "messages[1:]|length", "messages[0]['role']", "messages[0].content.strip()",
    "namespace(_a=1)._a", "messages[2].content.split('</think>')[-1].lstrip('\\n')", "messages[2].content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n')", "m.map.fromkeys", "m.list.sort()", "m.list.__len__", "(m.list)[1]", "m['list'][1]", "m.nested[1][0]", "m.nested.1.0", "m.get is callable", "m.n.real", "m.f.is_integer()", "m.n.bit_length()",
)

STRINGS = printed(
    "' a b '.strip()", "'xxaxx'.strip('x')", "'xyaxy'.strip('yx')", "'xya'.lstrip('yx')", "'ayx'.rstrip('yx')", "'a'.strip(none)", "' a'.lstrip()", "'a '.rstrip()", "'\\u00a0a\\u3000\\x1c'.strip()", "'a,b,,c'.split(',')", "'a,b,,c'.split(',', 1)", "'a,b,,c'.rsplit(',', 1)", "'a,b,c'.split(',', maxsplit=1)", "'a,b,c'.split(sep=',')", "' a  b c '.split()", "' a  b c '.split(none, 1)",
    "' a  b c '.rsplit(none, 1)", "''.split()", "''.split(',')", "'abc'.split('')", "'a'.split(1)", "'a\\nb\\r\\nc\\x0bd\\u2028e'.splitlines()", "'a\\nb'.splitlines(true)", "'a\\n'.splitlines()", "''.splitlines()", "'abc'.startswith('a')", "'abc'.startswith('b', 1)", "'abc'.startswith(('x', 'a'))", "'abc'.endswith('c')", "'abc'.endswith('b', 0, 2)", "'abc'.startswith(1)", "'aaa'.replace('a', 'b')", "'aaa'.replace('a', 'b', 2)", "'aaa'.replace('', '-')",
    "'aaa'.replace('a', 'b', -1)", "'aaa'.replace('a', 1)", "'a-b'.upper()", "'A-B'.lower()", "'it\\'s a test-case 1st'.title()", "'hELLO wORLD'.capitalize()", "'ß'.upper()", "'ß'.capitalize()", "'İ'.lower()", "'abc'.find('c')", "'abc'.find('z')", "'abcabc'.rfind('a')", "'é中a'.find('a')", "'abcabc'.find('a', 1)", "'abab'.count('ab')", "'aaa'.count('aa')", "'abc'.count('')", "'abc'.index('c')", "'abc'.index('z')", "'a-b-c'.partition('-')", "'a-b-c'.rpartition('-')",
    "'abc'.partition('-')", "'abc'.rpartition('-')", "'abc'.partition('')", "'-'.join(['a', 'b'])", "'-'.join(['a', 1])", "'-'.join('abc')", "'-'.join({'a': 1})", "'-'.join([])", "','.join(m.words)", "'abc'.removeprefix('a')", "'abc'.removesuffix('c')", "'abc'.removeprefix('x')", "'12'.isdigit()", "'1.2'.isdigit()", "''.isdigit()", "'²'.isdigit()", "'½'.isdigit()", "'½'.isnumeric()", "'²'.isdecimal()", "'٣'.isdecimal()", "'ab'.isalpha()", "'a1'.isalpha()", "'a1'.isalnum()", "'a b'.isalnum()", "' \\t'.isspace()", "''.isspace()", "'AB'.isupper()", "'Ab'.isupper()", "'ab1'.islower()", "'1'.islower()", "'Ab Cd'.istitle()", "'a'.isascii()",
    "'a_1'.isidentifier()", "'a'.zfill(3)", "'a'.ljust(3) ~ '|'", "'a'.rjust(3)", "'a'.center(4) ~ '|'", "'{} {}'.format(1, 'a')", "'a'.encode()", "'aB'.swapcase()", "'ẞ'.casefold()", "'a\\tb'.expandtabs(4)", "'中a 1a'.title()", "'ǆ'.capitalize()", "'ΑΣ'.lower()", "'a'.nosuch()", "'abc'.upper().lower()", "'x'.strip().split('x')", "'a b'.split(' ')|last", "('a' ~ 'b').upper()", "'a\\nb'.split('\\n')|join('|')", "m.content.split('\\n')[0]", "m.lines.splitlines()", "m.uni.upper()", "'abc'.strip(1)", "'abc'.strip('a', 'b')", "'abc'.upper(1)", "'aXbX'.split('X')", "'%s' % 'a'", "'a' 'b'.upper()",
    "'abc'.endswith(('x', 'c'))", "'  '.strip() == ''", "'a'.join(['b'])", "'\\n\\na\\n'.lstrip('\\n')", "'123'.isdigit() and '123'|int > 100",
)

FILTERS = printed(
    "m|tojson", "m.map|tojson", "m.map|tojson(indent=2)", "m.nested|tojson(indent=4)", "m.nil_list|tojson(indent=2)", "m.nil_map|tojson", "[[], {}]|tojson(indent=1)", "m.map|tojson(4)", "m.uni|tojson", "m.uni|tojson(ensure_ascii=true)", "m.uni|tojson(true)", "m.html|tojson", "m.map|tojson(sort_keys=true)", "m.map|tojson(separators=(',', ':'))", "m.map|tojson(separators=[',', ':'])", "m.map|tojson(indent='--')", "m.map|tojson(indent=0)", "m.map|tojson(indent=2, separators=(', ', ' = '))",
    "1.0|tojson", "1e16|tojson", "1.5e-7|tojson", "none|tojson", "true|tojson", "'a\"\\\\/\\b\\f\\n\\r\\t\\x00\\x7f'|tojson", "(1, 2)|tojson", "m.map.items()|tojson", "m.map.keys()|list|tojson", "tools|tojson", "tools|tojson(indent=4)", "messages[2].tool_calls|tojson", "(1e308*10)|tojson", "'😀'|tojson(ensure_ascii=true)", "m.map|tojson(nosuch=1)", "m.map|tojson(false, 2)", "namespace(a=1)|tojson", "range|tojson", "m.map|tojson(indent=none)", "m.map|tojson(indent=true)", "m.map|tojson(indent=-1)",
    "' a '|trim", "'xax'|trim('x')", "5|trim", "' a '|trim ~ '|'", "'a'|lstrip", "'ab'|upper", "'AB'|lower", "'it\\'s a test-case (one) <two>'|title", "'hELLO'|capitalize", "'a b'|capitalize", "5|upper", "'aXbX'|replace('X', '-')", "'aXbX'|replace('X', '-', 1)", "'aXbX'|replace('X', '-', 0)", "'aXbX'|replace('X', '-', -1)", "'a1'|replace(1, 2)", "'aXb'|replace('X', none)", "5|string ~ ''", "[1]|string", "'a\\nb'|indent", "'a\\nb'|indent(2)", "'a\\n\\nb'|indent(2, true)", "'a\\n\\nb'|indent(2, first=true, blank=true)", "'a\\nb\\n'|indent(2)", "'a\\nb'|indent('> ')", "'a\\r\\nb\\x0bc'|indent(1)", "''|indent(2, true)", "'\\na'|indent(2, true)", "'a\\n'|indent(2, blank=true)", "'a'|indent(width=3, first=True)",
    "m.list|length", "m.map|count", "'é😀'|length", "m.list|sum", "m.rows|sum('v')", "m.rows|sum(attribute='v')", "m.list|sum(start=10)", "['a']|sum", "[1.5, 2]|sum", "[]|sum", "tools|min == tools[0]", "tools|max == tools[0]", "[3, true, 1.0]|max", "[[1], [1]]|unique|list", "[(1,), (1,)]|unique|list", "true * [1, 2]", "2 * (1,)", "m.list|sort", "m.list|sort(reverse=true)", "m.list|sort(true)", "m.words|sort", "m.words|sort(case_sensitive=true)", "m.rows[:3]|sort(attribute='v')", "m.rows[:3]|sort(attribute='k,v')", "m.rows[:3]|sort(attribute='k', reverse=true)", "[1, 'a']|sort", "m.nested|sort", "m.nested|sort(attribute=1, reverse=true)", "'cab'|sort", "m.map|sort", "m.map|dictsort", "m.map|dictsort(true)", "{'b': 1, 'a': 2}|dictsort(by='value')", "{'b': 1, 'a': 2}|dictsort(reverse=true)", "{'b': 1, 'a': 2}|dictsort(false, 'key', true)", "m.list|min", "m.list|max", "m.words|min", "m.words|max", "m.words|max(case_sensitive=true)", "m.rows[:3]|max(attribute='v')", "[]|min",
    "[]|max is defined", "m.words|unique|list", "m.words|unique(true)|list", "m.rows[:3]|unique(attribute='k')|list", "[1, 1.0, true, 2]|unique|list", "m.list|first", "m.list|last", "[]|first", "[]|last", "'abc'|first", "'abc'|last", "m.map|first", "m.list|reverse|list", "'abc'|reverse", "m.map|reverse|list", "m.list|join", "m.list|join(', ')", "m.words|join('-')|upper", "m.rows[:3]|join(',', attribute='k')", "m.rows|join(',', 'v')", "[1, none, 'a', true]|join('|')", "['a', ['b']]|join", "'abc'|join('-')", "m.map|join(',')", "'abc'|list", "m.map|list", "(1, 2)|list",
    "m.rows|map(attribute='v')|list", "m.rows|map(attribute='k')|list", "m.rows|map(attribute='k', default='?')|list", "m.words|map('upper')|list", "m.words|map('replace', 'p', 'b')|list", "m.words|map('length')|sum", "m.nested|map(attribute=0)|list", "m.nested|map(attribute='1')|list", "m.nested|map('first')|list", "m.nested|map('join', '-')|join(' ')", "m.words|map|list", "m.words|map('nosuch')|list", "messages|map(attribute='content.x')|list", "messages|map(attribute='role')|join(' ')", "tools|map(attribute='function.name')|list", "tools|map(attribute='function')|map(attribute='name')|join", "m.list|select('odd')|list", "m.list|select('>', 1)|list", "m.list|select('gt', 1)|list", "m.list|select|list", "[0, '', 1, none]|select|list", "m.list|reject('odd')|list", "[0, 1]|reject|list",
    "m.list|select('in', [1, 2])|list", "m.list|select('divisibleby', 2)|list", "messages|selectattr('role', 'equalto', 'user')|list|length", "messages|selectattr('role', '==', 'user')|map(attribute='n')|list", "messages|selectattr('name')|list|length", "messages|selectattr('name', 'defined')|list|length", "messages|rejectattr('role', 'in', ['user', 'tool'])|map(attribute='role')|list", "messages|rejectattr('tool_calls')|list|length", "m.rows|selectattr('k', 'undefined')|list", "m.rows|rejectattr('k', 'undefined')|map(attribute='v')|list", "messages|selectattr|list", "messages|selectattr('role', 'nosuch')|list", "messages|selectattr('role', 'eq', 'user')|first is defined", "(messages|selectattr('role', 'eq', 'nobody')) and 'true'", "messages|selectattr('role', 'eq', 'nobody')|length", "(messages|map(attribute='role'))[0]", "(messages|map(attribute='role'))[0] is defined",
    "messages|map(attribute='role')|first", "messages|map(attribute='role')|last", "messages|map(attribute='role')|reverse|list", "'user' in messages|map(attribute='role')", "'user' in (messages|map(attribute='role'))", "messages|map(attribute='role') is iterable", "messages|map(attribute='role') is sequence", "messages|map(attribute='role')|tojson", "m.list|reverse is sequence", "m.list|reverse|length", "(m.list|reverse)[0]", "m.list|reverse|first", "m.map|items|length", "m.map|items|first", "[1, 2]|items", "m.nil_map|items|list", "m.nil_list|map('upper') and 'yes'",
    "'5'|int", "'5.9'|int", "'x'|int", "'x'|int(7)", "'x'|int(default=7)", "' 12 '|int", "'1_000'|int", "'0x1f'|int(0, 16)", "'ff'|int(base=16)", "'-3'|int", "'1e3'|int", "'inf'|int", "'nan'|int(3)", "5.9|int", "-5.9|int", "true|int", "none|int", "[]|int", "'5'|int + 1", "''|int", "1e20|int", "'5'|float", "'x'|float", "'x'|float(1.5)", "' 1.5 '|float", "'1_0.5'|float", "5|float", "none|float", "'inf'|float", "'nan'|float", "'1e3'|float", "true|float", "-5|abs", "5.5|abs", "'a'|abs", "2.5|round", "3.5|round", "2.675|round(2)", "1.005|round(2)", "5|round", "5|round(1)", "1234.5|round(-2)", "1234|round(-2)", "2.1|round(method='ceil')", "2.9|round(0, 'floor')", "2.15|round(1, 'ceil')", "'a'|round", "2.5|round|int", "-2.5|round", "1e20|round", "1.25|round(1)", "0.5|round", "true|round",
    "m.html|escape", "m.html|e", "m.html|safe", "(m.html|safe) ~ '<'", "(m.html|safe)|length", "m.html|safe|string", "m.map|tojson|safe", "(m.html|safe) + '<'", "'<' + (m.html|safe)", "(m.html|safe) + m.html|safe", "'<' + (m.html|e) + '&'", "m.html|e|e", "(m.html|e)|length", "1 + (m.html|safe)", "(m.html|safe) + 1", "('<' + (m.html|safe)) ~ '<'", "none|e", "m.html|safe == m.html", "[m.html|safe]|join('<')", "m.html|safe|upper", "m.html|safe|replace('<', '[')", "m.html|safe|trim", "(m.html|safe).split('<')|length", "5|safe", "m.html|safe is string", "[m.html|safe]|tojson", "'%s'|format('a')", "'%d %s'|format(1, 'b')", "m.list|batch(2)|list", "m.list|slice(2)|list", "m.rows[:3]|groupby('k')|list|length", "'a b c'|wordcount", "'abcdefghijk'|truncate(5)", "'abc'|center(7) ~ '|'", "'a b c d'|wordwrap(3)", "'abc'|attr('upper') is callable", "m|attr('role')", "m|attr('role') is defined", "'a&b'|urlencode", "1000|filesizeformat", "'<b>x</b>'|striptags", "m.list|pprint", "m.list|random is number", "m.list|nosuch", "1|nosuch(2)", "'x'|default(1, 2, 3)", "m.list|first(1)", "m.list|length(1)", "m.list|list(1)", "m.list|reverse(1)", "m.list|unique(nosuch=1)|list",
    "m.words|join(d=' ')", "m.words|sort|first", "m.words|map('upper')|select('ne', 'FIG')|sort|join(',')", "messages|map(attribute='content')|map('trim')|first", "m.list|map('string')|join('+')", "m.rows|map(attribute='v')|sum", "m.rows|selectattr('v', 'gt', 2)|map(attribute='v')|max", "[3, 1]|sort|last", "'b,a'.split(',')|sort|join(',')", "m.words|map('first')|join", "(m.words|map('upper'))|join", "[['b', 2], ['a', 1]]|sort|map('last')|list",
)

TESTS = printed(
    "1 is odd", "2 is even", "2 is odd", "1.5 is odd", "'a' is odd", "4 is divisibleby 2", "4 is divisibleby(3)", "4 is divisibleby 0", "1 is number", "1.5 is number", "true is number", "'1' is number", "1 is integer", "true is integer", "1.0 is integer", "1.0 is float", "1 is float", "true is boolean", "1 is boolean", "'a' is string", "none is string", "none is none", "m is mapping", "m.list is mapping", "m.list is sequence", "m is sequence", "'a' is sequence", "1 is sequence", "m.list is iterable", "1 is iterable", "none is iterable", "'a' is lower", "'A' is upper", "'1' is lower", "5 is lower", "none is lower", "none is upper", "['a'] is lower", "true is lower", "m.list in m.map", "m.nil_map not in m.map", "(1,) in m.map", "1 in m.map", "m is callable", "range is callable",
    "1 is eq 1", "1 is equalto 1", "1 is == 1", "1 is ne 2", "1 is lt 2", "2 is gt 1", "1 is le 1", "1 is ge 2", "1 is lessthan 2", "1 is greaterthan 2", "1 is in [1]", "1 is not in [1]", "'a' is in 'abc'", "1 is in(1)", "1 is sameas 1", "1 is sameas true", "true is sameas true", "none is sameas none", "1 is sameas 1.0", "1 is nosuch", "x is nosuch", "'upper' is filter", "'nosuch' is filter", "'odd' is test", "m.html is escaped", "1 is defined is true", "(1 is defined) is true", "1 is eq(1) and true", "m.n is defined and m.n is not none", "1 is eq 1 + 1", "2 is eq 1 + 1", "1 is not eq 2", "m.x is not defined", "1 is odd or 1 is even", "1 is string if true else 2", "m.n is number and m.n > 5", "(1 is string) == false", "'a' is string is boolean", "1 is defined if true", "1 is string[0]", "1 is none(2)", "m.list is string or 'x'", "[] is sequence", "() is sequence", "{} is mapping", "m.map.items() is sequence", "m.map.items() is iterable", "m.map.items() is mapping", "range(3) is sequence", "range(3) is iterable", "1 is undefined", "none is defined", "none is undefined", "m.map.C is none", "not m.map.C is none",
)

STATEMENTS = [
    "{% for i in [1, 2, 3] %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }};{% endfor %}", "{% for i in 'ab' %}{{ loop.previtem }}<{{ i }}>{{ loop.nextitem }};{% endfor %}", "{% for i in [1] %}{{ loop.previtem is defined }}{{ loop.nextitem is defined }}{% endfor %}",
    "{% for i in [1, 2, 3] %}{{ loop.cycle('a', 'b') }}{% endfor %}", "{% for i in [1, 1, 2] %}{{ loop.changed(i) }}{% endfor %}", "{% for i in [1] %}{% for j in [1] %}{{ loop.depth }}{{ loop.depth0 }}{% endfor %}{{ loop.depth }}{% endfor %}", "{% for i in [1, 2] %}{{ loop.nosuch }}{% endfor %}", "{% for i in [1, 2] %}{{ loop.index is odd }}{% endfor %}", "{% for i in [1, 2] %}{{ loop }}{% endfor %}",
    "{% for i in [1, 2] if i > 1 %}{{ i }}{{ loop.length }}{{ loop.first }}{% else %}e{% endfor %}", "{% for i in [1, 2] if i > 5 %}{{ i }}{% else %}e{% endfor %}", "{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}={{ v }}{% if not loop.last %},{% endif %}{% endfor %}", "{% for k, v in {'b': 1, 'a': 2}|dictsort %}{{ k }}{{ v }}{% endfor %}", "{% for k, v in {'a': 1}|items %}{{ k }}{{ v }}{% endfor %}", "{% for k in {'a': 1} %}{{ k }}{% endfor %}", "{% for (a, b) in [(1, 2)] %}{{ a }}{{ b }}{% endfor %}", "{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}", "{% for a, in [(1,)] %}{{ a }}{% endfor %}",
    "{% for i in [1, 2, 3] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "{% for i in [1, 2, 3] %}{% if i == 2 %}{% continue %}{% endif %}{{ i }}{{ loop.index }}{% endfor %}", "{% for i in [1, 2] %}{% for j in [1, 2] %}{% if j == 2 %}{% break %}{% endif %}{{ i }}{{ j }}{% endfor %}{% endfor %}", "{% for i in [1, 2] %}{% break %}{% else %}e{% endfor %}x", "{% for i in [] %}a{% else %}e{% endfor %}", "{% for i in [1, 2, 3] if i != 2 %}{{ loop.index }}{{ i }}{{ loop.nextitem }}{% endfor %}",
    "{% set x = 1 %}{% for i in [1, 2] %}{{ x }}{% set x = x + i %}{{ x }};{% endfor %}{{ x }}", "{% for i in [1, 2] %}{{ x }}{% set x = i %}{{ x }}{% endfor %}{{ x }}", "{% for i in [1] %}{% if true %}{% set y = i %}{% endif %}{{ y }}{% endfor %}{{ y }}", "{% if true %}{% set z = 5 %}{% endif %}{{ z }}", "{% if false %}{% set z = 5 %}{% endif %}{{ z }}", "{% set i = 9 %}{% for i in [1] %}{{ i }}{% endfor %}{{ i }}", "{% for i in [1] %}{% endfor %}{{ i }}", "{% set ns = namespace(n=0) %}{% for i in [1, 2] %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}", "{% set ns = namespace() %}{% set ns.a = 1 %}{{ ns.a }}", "{% set ns = namespace(a=1) %}{% set ns.b.c = 1 %}", "{% set m = {'a': 1} %}{% set m.a = 2 %}{{ m.a }}", "{% set x.y = 1 %}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}", "{% set (a, b) = (1, 2) %}{{ a }}{{ b }}", "{% set a, b = 'xy' %}{{ b }}{{ a }}", "{% set a = 1, 2 %}{{ a }}", "{% set a = b = 1 %}", "{% set ns = namespace() %}{% set ns.a, b = 1, 2 %}{{ ns.a }}{{ b }}", "{% set x %}a{{ 1 }}b{% endset %}{{ x|upper }}", "{% set x | upper %}ab{% endset %}{{ x }}", "{% set x | replace('a', 'c') | upper %}ab{% endset %}{{ x }}", "{% set x %}{% set y = 1 %}{{ y }}{% endset %}{{ x }}{{ y }}", "{% set ns = namespace() %}{% set ns.t %}q{% endset %}{{ ns.t }}", "{% set x %}{% endset %}[{{ x }}]{{ x is string }}", "{% for i in [1, 2] %}{% set x %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}{% endset %}{{ x }}{% endfor %}",
    "{% filter upper %}a{{ 'b' }}{% endfilter %}", "{% filter replace('a', 'b')|upper %}aa{% endfilter %}", "{% filter upper %}{% set q = 1 %}x{% endfilter %}{{ q }}", "{% macro f(a, b=2) %}{{ a }}{{ b }}{% endmacro %}{{ f(1) }}{{ f(1, 3) }}{{ f(b=4, a=5) }}{{ f() }}", "{% macro f(a) %}{{ a }}{% endmacro %}{{ f(1, 2) }}", "{% macro f(a) %}{{ a }}{% endmacro %}{{ f(z=2) }}", "{% macro f() %}{{ x }}{% endmacro %}{% set x = 1 %}{{ f() }}", "{% set x = 1 %}{% macro f() %}{{ x }}{% endmacro %}{% set x = 2 %}{{ f() }}", "{% macro f() %}{% set x = 5 %}{{ x }}{% endmacro %}{{ f() }}{{ x }}", "{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}", "{% macro f(a, b=a) %}{{ b }}{% endmacro %}{{ f(1) }}", "{% macro f() %} x {% endmacro %}[{{ f()|trim }}]", "{% macro f() %}a{% endmacro %}{{ f }}", "{% macro f() %}a{% endmacro %}{{ f is callable }}{{ f.name }}", "{{ f() }}{% macro f() %}a{% endmacro %}",
    "{% for i in [1, 2] %}{% macro f() %}{{ i }}{% endmacro %}{{ f() }}{% endfor %}", "{% for i in [1, 2] %}{% macro f() %}{{ i }}{% endmacro %}{% endfor %}{{ f is defined }}", "{% macro f(a) %}{% for i in a %}{{ i }}{{ loop.last }}{% endfor %}{% endmacro %}{{ f([1, 2]) }}", "{% macro f() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1, a=2) }}", "{% macro f() %}{{ caller() }}{% endmacro %}{% call f() %}x{% endcall %}", "{% macro f(x) %}{{ x.a }}{% endmacro %}{{ f({'a': 1}) }}", "{% macro f() %}{{ messages|length }}{{ bos_token }}{% endmacro %}{{ f() }}", "{% macro f() %}{% endmacro %}{{ f() == '' }}", "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}B{% endmacro %}{{ a() }}", "{% for m in messages %}{% macro g() %}{{ m.role }}{% endmacro %}{{ g() }} {% endfor %}", "{% if true %}{% macro f() %}1{% endmacro %}{% endif %}{{ f() }}", "{% macro f(a, b) %}{{ a }}-{{ b }}{% endmacro %}{{ f(1, none) }}", "{% macro f(a=1, b) %}{{ a }}{{ b }}{% endmacro %}{{ f() }}", "{% set g = namespace() %}{% macro f() %}{% set g.x = 3 %}{% endmacro %}{{ f() }}{{ g.x }}", "{% macro f(x) %}{{ x|upper }}{% endmacro %}{{ ['a', 'b']|map('upper')|map('lower')|join }}{{ f('c') }}",
    "{% generation %}a{% endgeneration %}b", "{% generation %}{% set q = 1 %}{{ q }}{% endgeneration %}{{ q }}", "{% for i in [1, 2] %}{% generation %}{{ i }}{% endgeneration %}\n{% endfor %}", "{%- generation -%} a {%- endgeneration -%} b", "{% if 1 %}a{% elif 2 %}b{% else %}c{% endif %}", "{% if 0 %}a{% elif 2 %}b{% else %}c{% endif %}", "{% if 0 %}a{% elif 0 %}b{% else %}c{% endif %}", "{% if not 0 and (1 or 0) %}a{% endif %}", "{% if 1, 0 %}a{% endif %}", "{% set x = 1 if false else 2 %}{{ x }}", "{% set x = 1 if false %}{{ x is defined }}",
    "{% set t = messages|selectattr('role', 'eq', 'user') %}{% for i in t %}{{ i.n }}{% endfor %}{% for i in t %}{{ i.n }}{% else %}empty{% endfor %}", "{% set t = messages|selectattr('role', 'eq', 'x') %}{% if t %}a{% else %}b{% endif %}", "{% set t = messages|selectattr('role', 'eq', 'x')|list %}{% if t %}a{% else %}b{% endif %}", "{% for i in [3, 1]|reverse %}{{ i }}{{ loop.last }}{% endfor %}", "{% for i in messages[::-1] %}{{ i.role }}{{ loop.index0 }} {% endfor %}", "{% for m in messages|map(attribute='role') %}{{ m }}{{ loop.length }}{% endfor %}", "{% set l = [] %}{% for i in [1] %}{% set l = l + [i] %}{% endfor %}{{ l }}", "{% for i in range(3) %}{{ i }}{% endfor %}", "{% for i in range(2, 0, -1) %}{{ i }}{% endfor %}", "{% for i in [1], [2] %}{{ i }}{% endfor %}", "{% for x in [1, [2, [3]]] recursive %}{% if x is iterable %}{{ loop(x) }}{% else %}{{ x }}{% endif %}{% endfor %}",
    "{{ raise_exception('No ' ~ 1) }}", "{{ raise_exception(1) }}", "{% if false %}{{ raise_exception('x') }}{% endif %}ok", "{{ raise_exception() }}", "{{ raise_exception('a', 'b') }}", "{{ strftime_now('%Y-%m-%d') }}", "{{ strftime_now('%d %b %Y, %A %H:%M:%S %p %%') }}", "{{ strftime_now('%B %e %j %y %I %a %U %W %w %u %V %G %f|%z|%Z|%D %R %C %c %x %X %-d %-m %F %T %h') }}", "{{ strftime_now() }}", "{{ strftime_now(1) }}", "{% set strftime_now = 1 %}{{ strftime_now }}", "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% endif %}",
    "{% if 1 if true else 0 %}a{% endif %}", "{% if (1 if true else 0) %}a{% endif %}", "{% if 0 %}{% elif 1 if true %}a{% endif %}", "{% for i in [1, 2] %}{% continue %}{% else %}e{% endfor %}", "{% for i in [1, 2] %}{% if i == 2 %}{% continue %}{% endif %}{% else %}e{% endfor %}", "{% for i in [1, 2] %}{% if i == 2 %}{% break %}{% endif %}{% else %}e{% endfor %}", "{% set a, = [1] %}{{ a }}", "{% set x = {'update': 1, 'copy': 2} %}{{ x.update is defined }}{{ x['update'] }}{{ x.copy is callable }}{{ x['copy'] }}", "{% set r = messages|map(attribute='role') %}{{ r|first }}{{ r|first }}{{ r|list|length }}", "{% with x = 1 %}{% with x = x + 1 %}{{ x }}{% endwith %}{{ x }}{% endwith %}{{ x }}", "{% for k in messages[1].map %}{{ loop.changed(k, 1) }}{{ loop.cycle('o') }}{% endfor %}",
    "{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}", "{% with %}{% set a = 1 %}{{ a }}{% endwith %}{{ a }}", "{% block b %}x{% endblock %}", "{% include 'x' %}", "{% import 'x' as y %}", "{% extends 'x' %}", "{% autoescape true %}{{ '<' }}{% endautoescape %}", "{% do 1 %}", "{% trans %}a{% endtrans %}", "{{ self.b() }}", "{{ super() }}", "{% set x = namespace(a=namespace(b=1)) %}{{ x.a.b }}", "{{ [namespace(a=1)][0].a }}", "{{ cycler('a', 'b').next() }}", "{{ joiner(', ')() }}", "{{ lipsum(n=1)|length > 1 }}", "{{ ('a')('b') }}", "{{ [1][0](2) }}", "{{ m()() }}", "{{ range(*[3])|list }}", "{{ dict(**{'a': 1}) }}", "{{ messages[0:1, 2] }}", "{{ f(1)(2) }}", "{% macro f() %}1{% endmacro %}{{ f()() }}", "{% set x = {'f': range} %}{{ x.f(2)|list }}", "{{ 'a'.upper()|lower().x }}", "{{ 'abc'|first|upper }}", "{{ ['a']|first()|upper }}", "{% set f = 'abc'.upper %}{{ f() }}", "{% set g = {'a': 1}.get %}{{ g('a') }}{{ g('b', 2) }}",
    "{% for i in [1, 2] %}{% set outer = loop %}{% for j in [1] %}{{ outer.index }}{{ loop.index }}{% endfor %}{% endfor %}", "{% for i in [1, 2] %}{% set ns = namespace(l=loop.index) %}{{ ns.l }}{% endfor %}", "{% set x = 'a' %}{% set x = x ~ 'b' %}{{ x }}", "{% if 'a' in ['a'] and not 'b' in ['a'] %}y{% endif %}", "{% for i in [1, 2, 3] %}{{ 'x' if loop.last else '-' }}{% endfor %}", "{%- for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] | trim + eos_token }}{% endfor %}", "{% for m in messages %}{% if m.tool_calls %}{% for c in m.tool_calls %}{{ c.function.name }}{{ c.function.arguments | tojson }}{% endfor %}{% endif %}{% endfor %}", "{% for i in [] %}{% else %}{% set q = 1 %}{{ q }}{% endfor %}{{ q }}", "{% for i in [[1, 2], [3]] %}{% for j in i %}{{ loop.index }}{% endfor %}{{ loop.index }}{% endfor %}", "{% set a = 1 %}{% if a %}{% set a = 2 %}{% endif %}{{ a }}", "{% for x in [1] %}{% if false %}{% set a = 2 %}{% endif %}{{ a }}{% endfor %}", "{% set a = 0 %}{% for x in [1, 2] %}{% if x == 2 %}{{ a }}{% endif %}{% set a = x %}{% endfor %}{{ a }}", "{% for loop in [1] %}{{ loop }}{% endfor %}", "{% set loop = 5 %}{{ loop }}{% for x in [1] %}{{ loop.index }}{% endfor %}{{ loop }}", "{% set messages = messages[1:] %}{{ messages|length }}", "{% set range = 5 %}{{ range }}", "{% for x in [1, 2] %}{{ x }}{% set x = 9 %}{{ x }}{% endfor %}", "{% macro f(x) %}{% set x = x ~ '!' %}{{ x }}{% endmacro %}{{ f('a') }}",
]

# Valid templates that Lathe refuses: the words of its error, and the templates or expressions.
LACKED = [
    (r"the escape '\N{...}'", [r"{{ '\N{BULLET}' }}"]),
    ("a dict has a key that is int", ["{{ {1: 2}[1] }}"]),
    ("unsupported operand types for %: 'str'", printed("'%s-%d' % ('a', 3)", "'%s' % 'a'")),
    ("cannot be sliced", printed("none[:1]", "5[:1]")),
    ("'self' is not supported", printed("self")),
    ("int.real", printed("m.n.real")), ("float.is_integer", printed("m.f.is_integer()")), ("int.bit_length", printed("m.n.bit_length()")),
    ("cannot print a macro", ["{% macro f() %}a{% endmacro %}{{ f }}"]),
    ("macro.name is not supported", ["{% macro f() %}a{% endmacro %}{{ f is callable }}{{ f.name }}"]),
    ("'a' is not supported", ["{% macro f() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1, a=2) }}"]),
    ("'varargs' is not supported", ["{% macro f() %}{{ varargs }}{% endmacro %}{{ f() }}"]),
    ("tag 'call' is not supported", ["{% macro f() %}{{ caller() }}{% endmacro %}{% call f() %}x{% endcall %}"]),
    ("a 'recursive' loop", ["{% for x in [1, [2, [3]]] recursive %}{% if x is iterable %}{{ loop(x) }}{% else %}{{ x }}{% endif %}{% endfor %}"]),
    ("tag 'block' is not supported", ["{% block b %}x{% endblock %}"]),
    ("tag 'autoescape' is not supported", ["{% autoescape true %}{{ '<' }}{% endautoescape %}"]),
    ("a namespace into another value", ["{% set x = namespace(a=namespace(b=1)) %}{{ x.a.b }}", "{{ [namespace(a=1)][0].a }}"]),
    ("a generator into another value", printed("[m.list|map('abs')]|first|first")),
    ("'cycler' is not supported", ["{{ cycler('a', 'b').next() }}"]), ("'lipsum' is not supported", ["{{ lipsum(n=1)|length > 1 }}"]),
    ("the result of an expression is called", ["{{ joiner(', ')() }}"]),
    ("arguments with '*'", ["{{ range(*[3])|list }}", "{{ dict(**{'a': 1}) }}"]),
    ("'split' of a string from `safe`", printed("(m.html|safe).split('<')|length")),
] + [(f"str.{name}(...) is not supported", printed(one)) for name, one in {
    "istitle": "'Ab Cd'.istitle()", "isidentifier": "'a_1'.isidentifier()", "zfill": "'a'.zfill(3)", "ljust": "'a'.ljust(3) ~ '|'",
    "rjust": "'a'.rjust(3)", "center": "'a'.center(4) ~ '|'", "format": "'{} {}'.format(1, 'a')", "encode": "'a'.encode()",
    "swapcase": "'aB'.swapcase()", "casefold": "'ẞ'.casefold()", "expandtabs": "'a\\tb'.expandtabs(4)"}.items()
] + [(f"filter '{name}' is not supported", printed(*some)) for name, some in {
    "wordcount": ["x|wordcount", "'a b c'|wordcount"], "format": ["'%s'|format('a')", "'%d %s'|format(1, 'b')"],
    "batch": ["m.list|batch(2)|list"], "slice": ["m.list|slice(2)|list"], "groupby": ["m.rows[:3]|groupby('k')|list|length"], "truncate": ["'abcdefghijk'|truncate(5)"],
    "center": ["'abc'|center(7) ~ '|'"], "wordwrap": ["'a b c d'|wordwrap(3)"], "attr": ["'abc'|attr('upper') is callable", "m|attr('role')", "m|attr('role') is defined"],
    "urlencode": ["'a&b'|urlencode"], "filesizeformat": ["1000|filesizeformat"], "striptags": ["'<b>x</b>'|striptags"], "pprint": ["m.list|pprint"], "random": ["m.list|random is number"]}.items()
] + [(f"test '{name}' is not supported", printed(*some)) for name, some in {
    "filter": ["'upper' is filter", "'nosuch' is filter"], "test": ["'odd' is test"]}.items()]


def result_of(template):
    try:
        texts, _ = chat_template_utils.render_jinja_template(
            conversations=[MESSAGES], tools=TOOLS, documents=None, chat_template=template, add_generation_prompt=True,
            bos_token="<s>", eos_token="</s>")
        return {"text": texts[0]}
    except jinja2.exceptions.TemplateError as error:
        result = {"error": type(error).__name__}
        return {**result, "refusal": str(error)} if type(error) is jinja2.exceptions.TemplateError else result
    except Exception as error:  # Whatever a template can make Python raise.
        return {"error": type(error).__name__}


def main():
    chat_template_utils.datetime = Clock
    lacked = {template: words for words, templates in LACKED for template in templates}
    cases = []
    for template in dict.fromkeys([*WHITE_SPACE, *LITERALS, *OPERATORS, *UNDEFINED, *ATTRIBUTES, *STRINGS, *FILTERS, *TESTS, *STATEMENTS, *lacked]):
        case = {"template": template, **result_of(template)}
        if " at 0x" in case.get("text", ""):
            # An address is printed: no two runs agree.
            case = {"template": template, "error": "address"}
        if template in lacked:
            if "text" not in case:
                raise SystemExit(f"LACKED has what is no template: {template}")
            case["lacked"] = lacked[template]
        cases.append(case)
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    head = f"\"messages\": {json.dumps(MESSAGES, ensure_ascii=False)},\n\"tools\": {json.dumps(TOOLS, ensure_ascii=False)}"
    (FOLDER / "goldens.json").write_text(f"{{\n{head},\n\"cases\": [\n{lines}\n]\n}}\n", encoding="utf-8")
    print(len(cases), "cases,", sum("text" in case for case in cases), "with a text,", len(lacked), "of them lacked")


if __name__ == "__main__":
    main()
