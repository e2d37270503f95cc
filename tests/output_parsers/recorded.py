"""Answers as models write them, by the formats' documentation, and what they mean."""

from __future__ import annotations

from dataclasses import dataclass

from flaxen.output_parsers.events import Content, Event, Reasoning, ToolCall

TOOLS = {
    "get_weather": {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer"},
            "unit": {"$ref": "#/$defs/Unit"},
            "exact": {"type": "boolean"},
            "near": {"type": "array", "items": {"type": "string"}},
        },
        "$defs": {"Unit": {"enum": ["celsius", "fahrenheit"]}},
    },
    "get_time": {"type": "object", "properties": {"zone": {"type": ["string", "null"]}}},
}


@dataclass(frozen=True)
class Recorded:
    """One answer of a format, and its events with neighbouring pieces joined."""

    parser: str
    text: str
    events: tuple[Event, ...]


def _ds(name: str) -> str:
    return f"<\uff5c{name}\uff5c>".replace("_", "\u2581")


_WEATHER = ToolCall("get_weather", '{"city": "Paris"}')
_TIME = ToolCall("get_time", '{"zone": "CET"}')
_ALL = ToolCall(
    "get_weather",
    '{"city": "12", "days": 3, "unit": "celsius", "exact": true, "near": ["Nice", "Lyon"]}',
)

RECORDED = (
    Recorded(
        "hermes",
        'I will look.\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n'
        '</tool_call>\n<tool_call>\n{"name": "get_time", "arguments": {"zone": "CET"}}\n'
        "</tool_call>",
        (Content("I will look."), _WEATHER, _TIME),
    ),
    Recorded(
        "hermes",  # an end marker inside a string, and text behind the call
        '<tool_call>{"name": "get_time", "arguments": {"zone": "</tool_call>\\"}"}}'
        "</tool_call>\nNow.",
        (ToolCall("get_time", '{"zone": "</tool_call>\\"}"}'), Content("\nNow.")),
    ),
    Recorded(
        "hermes",  # SmolLM2 lists several calls, and without end marker
        '<tool_call>[{"name": "get_weather", "arguments": {"city": "Paris"}}, '
        '{"name": "get_time", "arguments": "{\\"zone\\": \\"CET\\"}"}]',
        (_WEATHER, _TIME),
    ),
    Recorded(
        "hermes",  # no call: the name is missing
        '<tool_call>\n{"arguments": {}}\n</tool_call>',
        (Content('<tool_call>\n{"arguments": {}}\n</tool_call>'),),
    ),
    Recorded(
        "granite",
        '<|tool_call|>[{"name": "get_weather", "arguments": {"city": "Paris"}}]',
        (_WEATHER,),
    ),
    Recorded(
        "phi4_mini_json",
        'functools[{"name": "get_weather", "arguments": {"city": "Paris"}}]',
        (_WEATHER,),
    ),
    Recorded(
        "phi4_mini_json",
        '<|tool_call|>[{"name": "get_weather", "parameters": {"city": "Paris"}}]<|/tool_call|>',
        (_WEATHER,),
    ),
    Recorded(
        "phi4_mini_json",
        "The module functools is small.",
        (Content("The module functools is small."),),
    ),
    Recorded(
        "llama3_json",
        '{"name": "get_weather", "parameters": {"city": "Paris"}}; '
        '{"name": "get_time", "parameters": {"zone": "CET"}}',
        (_WEATHER, _TIME),
    ),
    Recorded(
        "llama3_json",
        'Let me see. <|python_tag|>{"name": "get_weather", "parameters": {"city": "Paris"}}',
        (Content("Let me see."), _WEATHER),
    ),
    Recorded(
        "llama3_json",  # JSON that names no tool is the answer
        '{"name": "Paris", "parameters": {}} is a city',
        (Content('{"name": "Paris", "parameters": {}} is a city'),),
    ),
    Recorded(
        "pythonic",
        "[get_weather(city='12', days=3, unit=\"celsius\", exact=True, near=['Nice', 'Lyon']), "
        'get_time(zone="CET")]',
        (_ALL, _TIME),
    ),
    Recorded("pythonic", "[1] says that it rains.", (Content("[1] says that it rains."),)),
    Recorded(
        "llama4_pythonic",
        '<|python_start|>[get_time(zone="a\\")]"), get_time(zone=null)]<|python_end|>',
        (ToolCall("get_time", '{"zone": "a\\")]"}'), ToolCall("get_time", '{"zone": null}')),
    ),
    Recorded(
        "lfm2",
        'Checking.<|tool_call_start|>[get_weather(city="Paris")]<|tool_call_end|>Wait for it.',
        (Content("Checking."), _WEATHER, Content("Wait for it.")),
    ),
    Recorded(
        "lfm2",
        '<|tool_call_start|>[{"name": "get_weather", "arguments": {"city": "Paris"}}]'
        "<|tool_call_end|>",
        (_WEATHER,),
    ),
    Recorded(
        "mistral",
        '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Paris"}}, '
        '{"name": "get_time", "arguments": {"zone": "CET"}}]',
        (_WEATHER, _TIME),
    ),
    Recorded(
        "mistral",
        'Sure.[TOOL_CALLS]get_weather{"city": "Paris"}[TOOL_CALLS]get_time[CALL_ID]a1b2c3d4e[ARGS]'
        '{"zone": "CET"}',
        (Content("Sure."), _WEATHER, ToolCall("get_time", '{"zone": "CET"}', "a1b2c3d4e")),
    ),
    Recorded(
        "deepseek_v3",
        f"{_ds('tool_calls_begin')}{_ds('tool_call_begin')}function{_ds('tool_sep')}get_weather\n"
        f'```json\n{{"city": "Paris"}}\n```{_ds("tool_call_end")}\n{_ds("tool_call_begin")}function'
        f'{_ds("tool_sep")}get_time\n```json\n{{"zone": "CET"}}\n```{_ds("tool_call_end")}'
        f"{_ds('tool_calls_end')}",
        (_WEATHER, _TIME),
    ),
    Recorded(
        "deepseek_v31",
        f"Yes.{_ds('tool_calls_begin')}{_ds('tool_call_begin')}get_weather{_ds('tool_sep')}"
        f'{{"city": "Paris"}}{_ds("tool_call_end")}{_ds("tool_calls_end")}',
        (Content("Yes."), _WEATHER),
    ),
    Recorded(
        "kimi_k2",
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0"
        '<|tool_call_argument_begin|>{"city": "Paris"}<|tool_call_end|><|tool_call_begin|>'
        'functions.get_time:1<|tool_call_argument_begin|>{"zone": "CET"}<|tool_call_end|>'
        "<|tool_calls_section_end|>",
        (
            ToolCall("get_weather", '{"city": "Paris"}', "functions.get_weather:0"),
            ToolCall("get_time", '{"zone": "CET"}', "functions.get_time:1"),
        ),
    ),
    Recorded(
        "glm45",
        "\n<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>12</arg_value>\n"
        "<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n<arg_key>unit</arg_key>\n"
        "<arg_value>celsius</arg_value>\n<arg_key>exact</arg_key>\n<arg_value>true</arg_value>\n"
        '<arg_key>near</arg_key>\n<arg_value>["Nice", "Lyon"]</arg_value>\n</tool_call>',
        (_ALL,),
    ),
    Recorded(
        "glm47",
        "<tool_call>get_time<arg_key>zone</arg_key><arg_value>null</arg_value></tool_call>",
        (ToolCall("get_time", '{"zone": null}'),),
    ),
    Recorded(
        "qwen3_coder",
        "I will look.\n\n<tool_call>\n<function=get_weather>\n<parameter=city>\n12\n</parameter>\n"
        "<parameter=days>\n3\n</parameter>\n<parameter=unit>\ncelsius\n</parameter>\n"
        '<parameter=exact>\nTrue\n</parameter>\n<parameter=near>\n["Nice", "Lyon"]\n</parameter>\n'
        "</function>\n</tool_call>\n<tool_call>\n<function=get_time>\n</function>\n</tool_call>",
        (Content("I will look."), _ALL, ToolCall("get_time", "{}")),
    ),
    Recorded(
        "qwen3_xml",  # without the outer marker; a text of several lines
        "<function=write><parameter=text>\n\n<b>\nif a < b:\n\n</parameter></function>",
        (ToolCall("write", '{"text": "\\n<b>\\nif a < b:\\n"}'),),
    ),
    Recorded(
        "functiongemma",
        "<start_function_call>call:get_weather{city:<escape>12<escape>,days:3,unit:<escape>celsius"
        "<escape>,exact:true,near:[<escape>Nice<escape>,<escape>Lyon<escape>]}<end_function_call>",
        (_ALL,),
    ),
    Recorded(
        "functiongemma",
        "<start_function_call>call:put{at:{<escape>x<escape>:1.5,y:null},all:[]}<end_function_call>",
        (ToolCall("put", '{"at": {"x": 1.5, "y": null}, "all": []}'),),
    ),
    Recorded(
        "openai",
        "<|channel|>analysis<|message|>They ask for the weather.<|end|><|start|>assistant"
        "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"
        '{"city": "Paris"}<|call|>',
        (Reasoning("They ask for the weather."), _WEATHER),
    ),
    Recorded(
        "openai",
        "<|channel|>commentary<|message|>I will look.<|end|><|start|>assistant "
        'to=functions.get_time<|channel|>commentary json<|message|>{"zone": "CET"}',
        (Content("I will look."), _TIME),
    ),
    Recorded(
        "openai",
        "<|channel|>analysis<|message|>Simple.<|end|><|start|>assistant<|channel|>final<|message|>"
        "It is sunny.<|return|>",
        (Reasoning("Simple."), Content("It is sunny.")),
    ),
    Recorded("openai", "It is sunny.", (Content("It is sunny."),)),
)
