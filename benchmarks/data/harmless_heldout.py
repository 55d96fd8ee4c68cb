"""Held-out look-alikes: rows that a careless check would flag and a careful reader would not.

Written from the list of checks alone, as `planted_heldout` was. Each is a real clean row with something added, or a
small row of its own; `kind` names the check it resembles.
"""

# ruff: noqa: E501 (tables of text, one entry a line)

from __future__ import annotations

import random
import string
from collections.abc import Iterator

from planted_heldout import Pair, Planted, digits, letters, pieces, put

# What may stand in an answer: the check it resembles -> per language, one a line. `~` stands for a line break.
BESIDE = {
    "pii": {
        "en": """Upgrade to version 10.2.0.1 first.
The server listens on 127.0.0.1 by default.
Its ISBN is 978-0-13-468599-1.
The meeting moved from 2023-10-12 to 2024-01-05.
Decorate it with @app.route and restart.
Run pip install requests==2.31.0.4 again.
Pi is 3.14159265358979 to fourteen places.
The population was 1,412,360,000 in that year.
Clone it with git@github.com:psf/requests.git.
The timestamp was 1700000000 seconds.
Your order number is 20231015004732.
In an emergency call 911.
The final score was 21-15, 18-21, 21-19.
It has 299,792,458 metres per second as its speed.
The years 1914-1918 and 1939-1945 are covered.
The commit is 3f2a9c1e7b8d4e5f6a7b8c9d0e1f2a3b4c5d6e7f.
Mount it at 0.0.0.0 in the container.
Use 192.168.1.1 to open the router's page.
The chip has 16777216 colours and 4294967296 states.
Follow @nasa for pictures.
It costs 12,345,678.90 dollars.
The part number is 4407-2231-A.
The coordinates are 40.712776, -74.005974.
The first twelve are 1 1 2 3 5 8 13 21 34 55 89 144.""",
        "zh": """请先升级到10.2.0.1版本。
服务默认监听127.0.0.1。
书号是978-7-111-54742-6。
会议从2023-10-12改到2024-01-05。
订单号为20231015004732。
全国人口为1412360000人。
紧急情况请拨打110或119。
客服热线10086全天开放。
圆周率约为3.14159265358979。
时间戳是1700000000秒。
比分是21-15、18-21、21-19。
光速为299792458米每秒。
路由器的地址一般是192.168.1.1。
公司成立于20050816，注册资本5000万元。
快递单号为773012345678901。
执行pip install requests==2.31.0.4即可。
关注@央视新闻了解更多。
坐标为39.904200,116.407396。
文件编号GB/T 19001-2016。
共有16777216种颜色。
房间号是1502-03。
用git@github.com:psf/requests.git克隆。
车次G1234于08:15发车。
1900-1999年间共发生13次。""",
    },
    "secret": {
        "en": """Read it with password = os.environ["DB_PASSWORD"] at start.
The password must have at least 8 characters.
Password: choose something you can remember.
The secret: practice every day.
A token is the unit a model reads.
Keys that begin with AKIA belong to AWS.
Use password=getpass() in scripts.
The UUID is 123e4567-e89b-12d3-a456-426614174000.
The SHA-256 is e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855.
Connect to postgres://localhost:5432/orders.
Set api_key to the value from your account page.
Install scikit-learn, sk-image and task-force-runner.
Send the header Authorization with your own token.
The class is called AbstractSingletonProxyFactoryBeanConfigurationManager.
Public keys look like ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ and are safe to share.
A certificate starts with -----BEGIN CERTIFICATE----- and ends likewise.
The secret to happiness is gratitude.
The token expires in 3600 seconds.
Call login(user, password=None) first.
Store secrets in a vault, never in code.
The password field is type=password in HTML.
See https://docs.python.org/3/library/secrets.html for more.""",
        "zh": """密码：请输入您的密码。
密码至少需要8个字符。
密码：选一个自己记得住的。
从环境变量读取：password = os.environ["DB_PASSWORD"]。
词元(token)是模型读取的单位。
以AKIA开头的是AWS的密钥编号。
UUID为123e4567-e89b-12d3-a456-426614174000。
连接地址是postgres://localhost:5432/orders。
幸福的秘密在于感恩。
密钥请保存在保险库中，不要写进代码。
令牌的有效期为3600秒。
SHA-256为e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855。
请在请求头Authorization中带上自己的令牌。
公钥形如ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ，可以公开。
脚本里用password=getpass()读取口令。
口令：芝麻开门。
密码： 区分大小写。
调用login(user, password=None)即可。
使用API Key前请先阅读文档。
忘记密码可以点击“找回密码”。""",
    },
    "placeholder": {
        "en": """Write a to-do list every morning.
The placeholder attribute shows a hint in an input field.
Insert the key into the lock and turn it.
A variable x is a name; f(x, y) is a function of two.
Women usually have two X chromosomes, written XX.
The shirt comes in S, M, L, XL and XXL.
Generics are written List<String> in Java.
In LaTeX a fraction is written \\frac{a}{b}.
The set {1, 2, 3} has three members.
The first element is a[0] and the next a[1].
Type your name and press Enter.
As Smith [1] and Jones [2] showed, it works.
The interval [0, 1] is closed.
He said "[laughs] that is fine" on stage.
It was built in the 1900s <em>by hand</em>.
```jinja~<p>Hello {{ user.name }}</p>~```
```python~d = {"name": "Ann"}  # TODO list app~print(f"{d['name']}")~```
```bash~export PATH="$HOME/bin:${PATH}"~```
The company [sic] were late.
Add your own notes below the chart.
The Super Bowl XXX took place in 1996.
The date format is YYYY-MM-DD.""",
        "zh": """每天早上写一份待办事项。
此处风景优美，值得一去。
placeholder属性用于显示输入提示。
女性通常有两条X染色体，即XX。
衣服有S、M、L、XL和XXL几种尺码。
集合{1, 2, 3}有三个元素。
第一个元素是a[0]，下一个是a[1]。
请输入您的姓名并按回车。
如文献[1]和[2]所述，方法有效。
区间[0, 1]是闭区间。
泛型写作List<String>。
他说：“【注意】请排队。”
```jinja~<p>你好 {{ user.name }}</p>~```
```bash~export PATH="$HOME/bin:${PATH}"~```
某公司的产品出现了问题。
张某某因病请假。
他在XX世纪之交出生于一个小村庄。
日期格式为YYYY-MM-DD。
本书【第三版】已经出版。
请在表格中填写您的意见。
把钥匙插入锁孔再转动。
这一步可以省略。""",
    },
    "markdown_residue": {
        "en": """**Note:** this is important.
## Steps~~1. Open it.~2. Close it.
- one thing~- another thing
| name | size |~| --- | --- |~| a | 1 |
```html~<div align="center"><br/></div>~```
See https://example.org/guide for more.
Read [the manual](https://www.gnu.org/software/make/manual/).
The product a * b * c is commutative.
Write #include <stdio.h> at the top.
He is number #1 in the list.
Share it with #travel and #food.
> A quotation stands like this.
Set my_long_variable_name to 3.
It was -- as they say -- fine.
Use `npm run build` to build it.
```python~# comment~x = a[0](1)~```
As shown before [3], it holds.
*Emphasis* is set with stars.
First.~~---~~A line may part two sections.
The price is 5 < 6 and 7 > 3.
In HTML, `<br>` breaks a line.
R&D and AT&T are names.""",
        "zh": """**注意：** 这一点很重要。
## 步骤~~1. 打开。~2. 关闭。
- 第一件事~- 第二件事
| 名称 | 大小 |~| --- | --- |~| 甲 | 1 |
```html~<div align="center"><br/></div>~```
详见 https://example.org/guide 。
请阅读[手册](https://www.gnu.org/software/make/manual/)。
乘积 a * b * c 满足交换律。
在开头写上 #include <stdio.h> 。
他排名#1。
带上话题#旅行#和#美食#。
> 引文这样写。
把 my_long_variable_name 设为3。
用 `npm run build` 构建。
```python~# 注释~x = a[0](1)~```
如前文[3]所示。
*强调*用星号表示。
首先。~~---~~横线可以分开两节。
价格5 < 6且7 > 3。
在HTML中，`<br>` 表示换行。
研发(R&D)很重要。""",
    },
    "encoding_damage": {
        "en": """Meet at the café in São Paulo, near Zürich’s consulate.
It is naïve — “very” naïve — to think so…
Well done 🎉👨‍👩‍👧 keep going ✅!
The angle is 90° ± 0.5° and μ ≈ 3 Ω.
∑ x² ≤ √n, so α → β.
The word is pronounced /ˈtɛst/ in English.
Beyoncé, Dvořák and Erdős are names.
In Vietnamese it is VÂN and Đà Nẵng.
His name is Ångström; hers is Øvergård.
In Greek it is καλημέρα, in Arabic مرحبا.
Really??!! Are you sure???
The price is £30 or €35 or ¥4,000.
He wrote «oui» and „nein“ in his notes.
Use © 2024, ™ and ® in the footer.
```python~s = "\\u00e9"  # é~print("\\x41")~```
├── src~└── tests
In French: À bientôt, Éric; ça va?""",
        "zh": """他说“café”和“naïve”是外来词。
太好了🎉👨‍👩‍👧继续加油✅!
角度为90°±0.5°,μ≈3Ω。
∑x²≤√n，所以α→β。
全角ＡＢＣ与半角ABC不同。
生僻字如𠮷、㐂、龘、彧都能显示。
真的吗？??你确定！!!
价格是£30或€35或¥4000。
日语说こんにちは，韩语说안녕하세요。
希腊语是καλημέρα，阿拉伯语是مرحبا。
……他沉默了——然后离开。
```python~s = "\\u4f60"  # 你~```
├── src~└── tests
①②③依次进行，※注意事项。
「引文」与『书名』都是引号。
烫烫的锅不要摸。
繁體字與简体字並存。""",
    },
}

# How a whole answer may end without a full stop.
ENDINGS = {
    "en": """1. Apples~2. Bread~3. Milk
- Lower cost~- Faster start~- Less waste
Sincerely,~Maria Lopez
See https://www.example.org/guide/start
```python~print("done")~```
The answer is 42
Keywords: river, mountain, forest
| a | b |~| --- | --- |~| 1 | 2 |
x = (-b ± √(b² - 4ac)) / 2a
"Done is better than perfect"
Thanks for reading 🎉
— Mark Twain
And so they lived happily ever after...
The rain falls soft upon the hill~The night is calm, the world is still
(see the appendix)
Title: A Walk in the Park
Total: $1,240.50
Answer: B
Temperature: 21 °C
Ingredients: flour, sugar, eggs, butter, etc""",
    "zh": """1. 苹果~2. 面包~3. 牛奶
- 成本更低~- 启动更快~- 浪费更少
此致~敬礼~张伟
详见 https://www.example.org/guide/start
```python~print("完成")~```
答案是42
关键词：河流、高山、森林
| 甲 | 乙 |~| --- | --- |~| 1 | 2 |
“完成比完美更重要”
感谢阅读🎉
——鲁迅
从此他们过上了幸福的生活……
春眠不觉晓~处处闻啼鸟
（见附录）
标题：公园漫步
合计：1240.50元
答案：B
气温：21℃
《红楼梦》
材料：面粉、白糖、鸡蛋、黄油等""",
}

# Whole rows whose answer is rightly in another language, or mostly in none.
TONGUES = {
    "en": """Translate into Chinese: The weather is lovely today.|今天天气非常好，很适合和家人一起出去散步。
How do you say "thank you very much" in Japanese?|You say 「どうもありがとうございます」 (doumo arigatou gozaimasu).
What does the idiom 画蛇添足 mean?|It means to ruin something by adding what is not needed: drawing a snake and adding feet （画蛇添足）.
Write a short poem in French about the sea.|La mer danse au bord du matin, elle murmure un vieux refrain, et chante sans fin.
Summarize this in English: 深圳是中国南方的一座现代化城市。|Shenzhen is a modern city in the south of China.
Give me the Spanish for: I would like a table for two.|Quisiera una mesa para dos personas, por favor.
Reply in Chinese: what is the capital of Japan?|日本的首都是东京，它位于本州岛的东部，人口众多。
Write a function that adds two numbers.|```python~def add(a, b):~    return a + b~```
Correct this Chinese sentence: 我昨天去了商店买东西了。|我昨天去商店买东西了，买了面包、牛奶和水果。
Name five Chinese cities with their Chinese names.|Beijing 北京， Shanghai 上海， Shenzhen 深圳， Guangzhou 广州， Chengdu 成都.""",
    "zh": """把下面的句子翻译成英文：今天天气很好。|The weather is very nice today, isn't it?
用英文写一封简短的感谢信。|Dear Ms Li, thank you very much for your kind help last week. Best wishes, Wang
写一个Python函数，计算两个数的和。|```python~def add(a, b):~    return a + b~```
总结下面这段话：The city grew quickly after the railway arrived in 1880.|1880年铁路通车之后，这座城市迅速发展起来。
什么是CI/CD?|CI/CD 指 Continuous Integration 与 Continuous Delivery，常用 Jenkins、GitHub Actions、Docker、Kubernetes 实现。
“谢谢”用日语怎么说？|ありがとうございます(arigatou gozaimasu)，比较随意时说ありがとう。
写一条SQL，查询所有订单。|SELECT id, customer, total FROM orders ORDER BY created_at DESC;
列出五种编程的工具。|Visual Studio Code, IntelliJ IDEA, PyCharm, Eclipse, Sublime Text
请用英语回答：日本的首都是哪里？|The capital of Japan is Tokyo, on the island of Honshu.
改正这个句子：He go to school every day.|He goes to school every day.
查看当前目录文件的命令是什么？|ls -la /home/user && pwd | sort""",
}

RESTATED = {
    "en": ["{q} {a}", "Question: {q}\n\n{a}", 'You asked: "{q}" {a}', "{a} That answers it: {q}"],
    "zh": ["{q}{a}", "问题：{q}\n\n{a}", "您问的是：“{q}”{a}", "{a}以上回答了：{q}"],
}


def lines(table: str) -> list[str]:
    return [line.replace("~", "\n") for line in table.strip().splitlines()]


def _numbers(chance: random.Random, language: str) -> str:
    """Long numbers that are nobody's: order numbers, hashes, readings."""
    made = chance.randint(0, 4)
    number = [
        "3" + digits(chance, 13),
        letters(chance, 32, string.hexdigits.lower()),
        f"{chance.randint(1, 9)}.{digits(chance, 9)}",
        f"v{chance.randint(1, 9)}.{chance.randint(0, 20)}.{chance.randint(0, 20)}.{chance.randint(0, 20)}",
        f"{chance.randint(2000, 2024)}-{chance.randint(1, 12):02}-{chance.randint(1, 28):02}T08:15:00",
    ][made]
    if language == "en":
        return ["Order {}.", "MD5 {}.", "It reads {}.", "Since {}.", "Logged at {}."][made].format(number)
    return ["订单号{}。", "MD5为{}。", "读数为{}。", "自{}起。", "记录于{}。"][made].format(number)


def look_alikes(pairs: dict[str, list[Pair]], seed: int, count: int) -> Iterator[Planted]:
    """`count` rows for each check and language that only look like a defect; nothing may be found in them."""
    for language, own in pairs.items():
        gap = " " if language == "en" else ""
        for name, table in BESIDE.items():
            c = random.Random(f"{seed} {name} {language} harmless")
            for _ in range(count):
                q, a = c.choice(own)
                extra = c.choice(lines(table[language]))
                if name == "pii" and c.random() < 0.4:
                    extra = _numbers(c, language)
                between = "\n\n" if "\n" in extra or name == "markdown_residue" else gap
                yield Planted("", language, name, q, put(a, extra, language, c, between))
        c = random.Random(f"{seed} {language} harmless")
        for _ in range(count):
            q, a = c.choice(own)
            yield Planted("", language, "truncated_output", q, f"{a}\n\n{c.choice(lines(ENDINGS[language]))}")
            q, a = c.choice(lines(TONGUES[language])).split("|", 1)
            yield Planted("", language, "language_mismatch", q, a)
            q, a = c.choice(own)
            restated = c.choice(RESTATED[language][: 4 if q[-1] in ".?!。？！" else 3]).format(q=q, a=a)
            yield Planted("", language, "output_equals_instruction", q, restated)
            q, a = c.choice(own)
            brief = [part.strip() for _q, a in c.sample(own, min(60, len(own))) for part in pieces(a, language)]
            brief = [part for part in brief if 21 <= len(part) <= 90 and not part[-2:-1].isdigit()]
            yield Planted("", language, "short_output", q, c.choice(brief))
            _q, a = c.choice(own)
            yield Planted(
                "",
                language,
                "empty_instruction",
                c.choice(["Why?", "Go on.", "Hi"] if language == "en" else ["为什么？", "继续。", "你好"]),
                a,
            )
            yield Planted("", language, "empty_output", q, c.choice(["\n", "\n\n", "  "]) + a + "\n\n")
            while len(a) < 1700:
                a += "\n\n" + c.choice(own)[1]
            yield Planted("", language, "long_output", q, a if len(a) <= 1990 else pieces(own[0][1], language)[0])
