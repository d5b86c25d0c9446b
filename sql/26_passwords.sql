/*
 * Passwords: which are refused, and how those are hashed that reach the database in plain text (create_member). All the
 * others are hashed by the service, with argon2id, which core Postgres does not have.
 */

-- From the frequency lists of zxcvbn, without dates; sequences and repetitions, which those lists leave out, are added.
create function private.common_passwords() returns text[]
language sql immutable
set search_path = ''
return regexp_split_to_array(
    '0.0.0.000 00000000 000000000 0000000000 01020304 01234567 012345678 0123456789 0192837465 0987654321
    10101010 10203040 10293847 1029384756 11111111 111111111 1111111111 1111111a 11112222 111222333 11223344
    1122334455 11235813 1123581321 12121212 12131415 12312312 123123123 1231231234 1232323q 123321123
    12341234 12344321 1234509876 123451234 1234512345 123454321 1234554321 123456123 123456654321 12345678
    123456780 123456789 1234567890 123456789012 1234567890a 1234567890q 1234567891 12345678910 1234567899
    123456789a 123456789d 123456789m 123456789q 123456789qwe 123456789s 123456789z 12345678a 12345678q
    12345679 1234567a 1234567q 123456aa 123456as 123456qqq 123456qw 123456qwe 123456qwerty 123456ru 12345abc
    12345qaz 12345qwe 12345qwer 12345qwert 12345qwerty 12348765 1234abcd 1234asdf 1234qwer 1234rewq 1234zxcv
    12365478 123654789 12369874 123698745 123789456 123qq123 123qwe123 123qweasd 123qweasdzxc 123qwert
    123qwerty 12qw12qw 12qw34er 12qwaszx 13243546 134679852 135792468 1357924680 135798642 14725836 147258369
    147852369 14789632 147896325 15426378 18436572 19283746 192837465 19411945 1a2b3c4d 1a2s3d4f 1michael
    1million 1passwor 1q1q1q1q 1q2w3e4r 1q2w3e4r5 1q2w3e4r5t 1q2w3e4r5t6y 1qa2ws3ed 1qaz2wsx 1qaz2wsx3edc
    1qazxsw2 1qazxsw23edc 1qazzaq1 1x2zkg8w 1z2x3c4v 21212121 22222222 23232323 23skidoo 25800852 25802580
    31415926 321654987 33333333 369258147 44332211 44444444 45m2do5bs 4815162342 55555555 5wr2i7h8 66666666
    69camaro 73501505 74108520 741852963 77777777 7777777a 78945612 789456123 7894561230 789654123 7ugd5hip2j
    87654321 88888888 888888888 8j4ye3uz 9293709b13 963852741 987456321 987654321 9876543210 99999999
    999999999 a1234567 a12345678 a123456789 a1b2c3d4 a1s2d3f4 aa123456 aa12345678 aaaaaaaa aardvark abc12345
    abc123456 abcabcabc abcd1234 abcd12345 abcdefg1 abcdefgh abcdefghi aberdeen abnormal abrakadabra access14
    achilles acidburn adgjmptw admin123 admin1234 admin12345 adminadmin administrator adrenalin agent007
    airborne airforce airplane albatros alcatraz alejandr aleksandr aleksandra alessandro alexande alexander1
    alexandr alexandre alleycat allison1 alphabet ambrosia america1 amethyst amsterda amsterdam anaconda
    anastasi anastasiya andromed andromeda andyod22 angel123 anhyeuem antelope anthony1 apollo11 apollo13
    apple123 applepie aquarius archange argentin armagedon armstron asdasdasd asdf1234 asdf12345 asdfasdf
    asdffdsa asdfgh01 asdfghjk asdfghjkl asdfzxcv asdqwe123 aspirine assassin atlantis austin31 australi
    avalanch awesome1 azertyui azertyuiop azsxdcfv babyblue babycake babydoll babyface babygirl babylon5
    babylove backdoor balloons baltimor baracuda barbados barcelon barcelona barefoot baritone baseball
    baseball1 basketba bcfields bearcats beatles1 beautifu beefcake beethove benessere bergkamp bettyboo
    bigblock bigdaddy bigmoney bigpoppa bigtruck billabon billybob billyboy bismarck bismillah blackbir
    blackbird blackcat blackdog blackhaw blackjac blackjack blacklab blackout blahblah blessing blink182
    blizzard blowfish blue1234 bluebell bluebird blueeyes bluefish bluejays bluemoon bluesman bobafett
    bobdylan bonehead bookworm boomboom borabora bordeaux borussia bradley1 brandon1 brighton broncos1
    brooklyn brucelee bubba123 bubbles1 buckeyes buckshot budapest buddy123 buddyboy budlight budweise
    budweiser buffalo1 bulldog1 bulldogs bullfrog bullseye bynthytn cabernet cadillac caliente californ
    caligula calimero callisto camaross cambridg cameron1 candyman cannibal capetown capitals capricor
    capricorn capslock captain1 cardinal carebear carlitos carnival carolina carpedie carpente cartman1
    cartoons casanova cashmone cashmoney cassandr catherin catwoman cavalier cbr900rr cdtnkfyf cerberus
    cfitymrf chainsaw challeng champion changeme changeme1 changeme123 chargers charisma charles1 charlie1
    charlie2 charlott charlton checkers chelsea1 cherokee cherries cheshire chester1 chevelle chevrole
    chevrolet cheyenne chicago1 chicken1 chickens chipmunk chocolat choochoo chris123 chrisbln christia
    christin christma christop chrysler chuckles cinnamon cjkysirj clarinet classics claymore cleopatr
    clevelan clippers cnfybckfd cocacola coldbeer coldplay colombia colorado coltrane comanche commande
    commando computer computer1 concorde concrete consumer cooldude coolness corleone corvette cosworth
    coventry cowboys1 crazybab creative cricket1 crjhgbjy crusader crystal1 cucumber cutiepie cygnusx1
    daisydog dannyboy darkange darkangel darklord darkness darkside darkstar david123 dbrnjhbz deadhead
    deadpool defender deftones delpiero derparol designer deskbase destiny1 devil666 devildog dfcbkbcf
    dfktynby dfktynbyf diamond1 diamonds dietcoke digital1 dilbert1 dingdong dinosaur dirtbike discover
    dkflbckfd dkflbvbh doberman dodgeram dodgers1 doghouse dogpound dolemite dolphin1 dolphins dominion
    dominiqu dontknow doomsday doughboy dragon12 dragon69 dragonba dragonball dragonfl dragster dreamcas
    drowssap drpepper drummer1 dthjybrf dutchess dynamite earnhard earthlink eastside eastwood eclipse1
    eggplant einstein ekaterina elcamino eldorado electric electron elephant elisabet elizabet elizaveta
    enforcer engineer england1 enternow enterpri enterprise ericsson escalade espresso eternity evangelion
    everlast evolutio excalibu excalibur explorer f00tball fairlane fandango fantasia fantomas farscape
    fastball favorite6 fearless feelgood ferrari1 fgtkmcby fidelity fireball firebird fireblad firefigh
    firewall fishbone fishhead fishing1 fkbyjxrf fktrcfylh fktrcfylhf flamengo flamingo flexible flipflop
    florida1 flounder football football1 fordf150 forever1 forgetit formula1 forsaken foxylady francesc
    francisc frankie1 freckles frederik freebird freedom1 freefall freeuser friendster front242 frontier
    fullmoon funstuff fussball futurama fyfcnfcbz fyfnjkbq fyutkbyf fyutkjxtr gabriel1 gabriell gamecube
    gameover gandalf1 gangster gannibal garfield gargoyle gateway1 gateway2 gatorade gbhfvblf genesis1
    geronimo gesperrt getmoney gfhjkm123 gfhjkmgfhjkm ghbdtn123 ghbdtnbr ghblehjr ghbywtccf ghhh47hj7649
    ghjcnjgfhjkm ghjcnjnfr ghjuhfvvf ghostrider gladiato gladiator gn56gn56 godfathe godfather godsmack
    godzilla goldeney goldfing goldfish goldstar goldwing golfball good123654 goodluck goodtime gordon24
    gotohell greatone green123 greenbay greenday gsxr1000 gtnhjdbx guardian guillaum guinness hairball
    halflife hallo123 hallowee handball handyman hannibal happy123 happyday hardball hardrock harrypotter
    hattrick hawaii50 hawaiian hawkeyes hayabusa heather1 hedgehog heineken hellfire hello123 hellokitty
    hellsing helpdesk helpdesk1 hercules herewego hetfield highbury highheel highland highlander hollywoo
    homemade honeybee hongkong honolulu hooligan hoosiers hounddog houston1 htubcnhfwbz hurrican hyperion
    icecream icehouse idontkno idontknow ihateyou ilikepie illusion ilovegod iloveyou iloveyou1 iloveyou123
    iloveyou2 immortal infiniti infinity insomnia inspiron internet intrepid intruder inuyasha irishman
    ironmaiden islander istanbul istheman iverson3 jackson1 jackson5 james007 james123 jamesbon jamesbond
    jasmine1 jayhawks jeepster jefferso jellybea jellybean jessica1 jesus123 jiggaman johannes johncena
    johndeer johngalt johnson1 jordan23 josephin junkmail jupiter1 just4fun justdoit justice1 juventus
    kakashka kamikaze kangaroo karolina katarina katerina kawasaki kazantip kcj9wx5n kenworth keyboard
    keystone kingfish kingkong kingston kittycat kittykat kjrjvjnbd kleopatra klondike knuckles konstantin
    kordell1 koroleva krasotka krokodil labrador lacrosse laetitia lakeside lakewood lalakers lancelot
    lasvegas leavemealone leedsutd left4dead lemonade lenochka letmein1 letmein123 letmein2 letsdoit lfitymrf
    liberty1 lifehack lightnin lightning limewire lineage2 lionking liverpoo liverpool liverpool1 lockdown
    logitech lokomotiv lol12345 lollipop lollypop lonesome lonestar lonewolf longhair longhorn longjohn
    lovelife loverboy lowrider luckydog luckyone macdaddy madison1 magellan magician magicman mailcreated5240
    majestic makaveli maksimka mallorca mamacita mamapapa manchest manchester mandarin mandrake maradona
    marathon marcello marcius2 margarit mariners marines1 marino13 mariposa marlboro masamune maserati
    mash4077 master12 matthew1 matthias maverick maxwell1 mazda626 mazdarx7 meatball meathead meatloaf
    mechanic megadeth megatron melanie1 melissa1 meowmeow mephisto mercedes meridian mersedes metallic
    metallica michael1 michael2 michigan microlab microphone microsof microsoft midnight millenium millwall
    minecraft minimoni mischief misfit99 mollydog monalisa money123 moneyman mongoose monkey12 monkeybo
    monopoly monster1 montana1 montecar montgom240 montreal montrose moonbeam moonligh moonlight moonshin
    morpheus morrowind mortgage mortimer motherlode motocros motorola mountain mudvayne munchkin mushroom
    musicman mustang1 mustang2 mustang6 mustangs mynameis mypassword myxworld nascar24 natalie1 natasha1
    nautilus navigator navyseal ncc1701a ncc1701d ncc1701e ncc74656 nebraska netscape nevermind nevermore
    newcastl newyork1 nightmar nightwish nineinch nintendo nirvana1 nokia6233 nokia6300 nokian73 noname123
    normandy nostromo notebook notredam nounours nthvbyfnjh nwo4life nygiants oblivion obsidian opendoor
    operator optimist overlord p0015123 p0o9i8u7 p4ssw0rd p@ssw0rd p@ssw0rd1 p@ssw0rd123 p@ssword pa55w0rd
    pa55word packers1 paintbal paintball pakistan pallmall palmtree panasoni panasonic pantera1 panther1
    panthers papillon paradigm paradise paramedi pasadena pass1234 pass12345 pass@123 passpass passport
    passw0rd passwor1 password password! password01 password1 password1! password12 password123 password1234
    password12345 password123456 password2 password9 password99 password@1 password@123 passwordpassword
    passwords passwort patches1 pathfind patrick1 patriots pavement pavilion peaches1 pearljam peekaboo
    penguin1 penguins perfect1 peterbil peterpan pharmacy phialpha philippe phillies phoenix1 pianoman
    pineappl pineapple pinetree pingpong pinkfloy pinkfloyd pinnacle pipeline piramida pizzaman plastics
    platinum platypus playball playmate playstat playstation playtime plymouth poiuytrewq pokemon1 poohbear
    pool6123 popcorn1 porkchop porsche1 porsche9 portland portugal poseidon postgres postgres1 power123
    preacher precious predator presario presiden princess pringles private1 pufunga7782 pumpkin1 pumpkins
    punisher punkrock puppydog q1234567 q123456789 q1w2e3r4 q1w2e3r4t5 q1w2e3r4t5y6 q2w3e4r5 qawsedrf
    qazwsx12 qazwsx123 qazwsxed qazwsxedc qazwsxedc123 qazwsxedcrfv qazxswedc qqqqqqqq qwe123qwe qweasd123
    qweasdzxc qweqweqwe qwer1234 qwerasdf qwerqwer qwert123 qwert12345 qwerty11 qwerty12 qwerty123 qwerty123!
    qwerty1234 qwerty12345 qwerty123456 qwertyui qwertyuio qwertyuiop qwertyuiop123 r2d2c3po radiohea
    radiohead ragnarok raiders1 rainbow1 rainbow6 rainbows rainyday raistlin rammstein rangers1 rasputin
    rastaman realmadrid rebecca1 reckless redalert redbaron reddevil reddwarf redskins redwings remingto
    renegade revoluti revolver rfhnjirf rfnthbyf rfntymrf rfvfcenhf rhbcnbyf rhfcjnrf rhjrjlbk rhtdtlrj
    riccardo richard1 riffraff rightnow rjhjktdf rjirfrgbde rjycnfynby roadking roadrunn roadrunner roadster
    robotech robotics rockford rockhard rocknrol rocknroll rockstar rolltide romashka rootbeer runescape
    rush2112 rustydog sabrina1 sailboat salamander salasana samantha sammy123 samsung1 sandiego sandrine
    sapphire saratoga sasha123 sasha_007 sausages scarface scoobydo scoobydoo scooter1 scorpio1 scorpion
    scotland scrabble scrapper screamer seahawks sebastia secret123 security segblue2 seinfeld seminole
    semperfi senators sentinel sephiroth septembe serenity sergbest sersolution shadow12 shamrock shaney14
    shannon1 sheepdog sherlock showtime sidekick sigmachi silverad simpsons singapor sinister sithlord
    skateboard skipper1 skittles skorpion skywalke skywalker slamdunk slapshot slimshad slimshady slipknot
    slippery slowhand smackdow smackdown smashing smeghead smirnoff smoothie sneakers snickers snoopdog
    snowball snowbird snowboar snowboard snowflak snuggles soccer10 soccer12 socrates softball software
    sojdlg123aljg solitude sonyericsson soso123aljg soulmate southpar southpark southpaw spaceman sparkles
    spartan1 spartans special1 specialk spectrum spencer1 spiderma spiderman spitfire splinter spongebo
    spongebob sprinter squirrel srinivas stallion stanislav stanley1 starbuck starcraf starcraft stardust
    starfire starfish stargate starligh starship startrek starwars starwars1 steelers stephani stephen1
    stickman stigmata stingray stonecol stonecold stranger stratfor strawber strawberry streaming success1
    summer69 summer99 sundance sundevil sunflowe sunflower sunlight sunnyday sunshine sunshine1 supabase
    super123 superfly superman superman1 supernov supernova supersta superstar survivor svetlana sweetnes
    sweetness sweetpea swimming swordfis swordfish sylveste syncmaster syracuse tacobell taekwondo talisman
    tampabay tarheels tazmania technics teddybea teddybear telephon terminat terminator terrapin test1234
    test12345 testing1 testing123 testtest thailand thanatos thankyou thedoors theforce thegreat therock1
    thirteen thisisit thuglife thumper1 thunder1 thunderb tiberius ticklish tiffany1 tiger123 tinkerbe
    tinkerbell titanium titleist tkbpfdtnf tokiohotel tomahawk tommyboy toonarmy toriamos tottenha tottenham
    translator traveler treasure treefrog trfnthbyf triangle trinitro trinity1 trombone trouble1 trucking
    truelove trumpet1 trustno1 tunafish turkey50 twilight ultimate umbrella underdog undertak undertaker
    universa user1234 username vacation vagabond valentin valentina valhalla valkyrie vampire1 vancouve
    vanessa1 vanguard vanhalen vasilisa vauxhall vendetta verbatim veronika vfhufhbnf vfitymrf vfntvfnbrf
    vfrcbvrf vfvfgfgf viewsoni viewsonic vikings1 viktoria viktoriya vincent1 violetta vipergts vjqgfhjkm
    vkontakte vladimir vladislav volkswag volleyba voyager1 vqsablpzla vsjasnel12 wanderer warcraft wareagle
    warhamme warhammer warrior1 warriors washingt waterboy waterloo webhompas webmaste webmaster welcome1
    welcome123 werewolf westside westwood wg8e3wjf whatever whiplash whiskers whistler whiteboy whiteout
    whitesox whocares wildbill wildcard wildcats wildfire wildwood william1 windmill windsurf winston1
    wishbone wolfgang wolfpack wolverin wolverine wonderboy woodland woodstoc woofwoof wp2003wp wrangler
    wrestlin wrinkle1 yamahar1 yankees1 yankees2 yeahbaby yfcntymrf yjdsqgfhjkm yogibear yosemite z1x2c3v4
    zachary1 zanzibar zaq12wsx zaq1xsw2 zaqwsxcde zaqxswcde zeppelin zerocool zildjian zxasqw12 zxcasdqwe
    zxcasdqwe123 zxcv1234 zxcvb123 zxcvbnm1 zxcvbnm123 zxczxczxc zzzzzzzz', '\s+');
comment on function private.common_passwords() is
    'Passwords of 8 characters and more that are guessed first, in lower case: the one list for SQL and the service.';
grant execute on function private.common_passwords() to authenticator;

create function private.check_password(password text) returns void
language plpgsql immutable
set search_path = ''
as $$
begin
    if coalesce(length(password), 0) < 8 then
        raise sqlstate 'PT422' using message = 'weak_password', detail = 'A password has at least 8 characters.';
    end if;
    -- As Supabase Auth, whose bcrypt would not look at the rest.
    if octet_length(password) > 72 then
        raise sqlstate 'PT422' using message = 'weak_password', detail = 'A password has at most 72 bytes.';
    end if;
    if lower(password collate "C") = any (private.common_passwords()) then
        raise sqlstate 'PT422' using message = 'weak_password',
            detail = 'This password is among those that are guessed first; choose another.';
    end if;
end
$$;
comment on function private.check_password(text) is
    'Refuses a password that is too short, too long or, in whatever case, too common.';

create function private.pbkdf2_sha512(password text, salt bytea, iterations integer) returns bytea
language plpgsql immutable strict
set search_path = ''
as $$
declare
    c_block_bytes constant integer := 128;
    v_key bytea := convert_to(password, 'UTF8');
    v_bits bit(1024);
    v_inner bytea;
    v_outer bytea;
    v_block bytea;
    v_sum bit(512);
begin
    if length(v_key) > c_block_bytes then
        v_key := sha512(v_key);
    end if;
    -- Only bit strings have an exclusive or. Text in hexadecimal leads to them, and their wire format, which begins with
    -- four bytes of length, leads back.
    v_bits := ('x' || rpad(encode(v_key, 'hex'), 2 * c_block_bytes, '0'))::bit(1024);
    v_inner := substr(bit_send(v_bits # ('x' || repeat('36', c_block_bytes))::bit(1024)), 5);
    v_outer := substr(bit_send(v_bits # ('x' || repeat('5c', c_block_bytes))::bit(1024)), 5);
    v_block := sha512(v_outer || sha512(v_inner || salt || '\x00000001'::bytea));
    v_sum := ('x' || encode(v_block, 'hex'))::bit(512);
    for i in 2 .. iterations loop
        v_block := sha512(v_outer || sha512(v_inner || v_block));
        v_sum := v_sum # ('x' || encode(v_block, 'hex'))::bit(512);
    end loop;
    return substr(bit_send(v_sum), 5);
end
$$;
comment on function private.pbkdf2_sha512(text, bytea, integer) is
    'The first block, 64 bytes, of PBKDF2-HMAC-SHA512 (RFC 8018).';

create function private.base64url(bytes bytea) returns text
language sql immutable
set search_path = ''
return translate(encode(bytes, 'base64'), E'+/=\n', '-_');
comment on function private.base64url(bytea) is 'Base64 with the alphabet of addresses, without padding (RFC 4648, section 5).';

-- Where there is pgcrypto.
grant usage on schema extensions to deskbase_definer;

create function private.hash_password(password text) returns text
language plpgsql volatile strict
set search_path = ''
as $$
declare
    -- A tenth of a second; the service puts its own, much costlier hash in its place at the first login.
    c_iterations constant integer := 40000;
    v_salt bytea := uuid_send(gen_random_uuid());  -- 122 random bits
    v_hash text;
begin
    if to_regprocedure('extensions.crypt(text, text)') is not null then
        -- bcrypt, which Supabase Auth understands. Dynamic, because elsewhere there is no such function to check against.
        execute 'select extensions.crypt($1, extensions.gen_salt(''bf'', 10))' into strict v_hash using password;
        return v_hash;
    end if;
    return concat_ws('$', '', 'pbkdf2-sha512', c_iterations, private.base64url(v_salt),
        private.base64url(private.pbkdf2_sha512(password, v_salt, c_iterations)));
end
$$;
comment on function private.hash_password(text) is
    'What is stored of a password that has passed check_password: bcrypt, or $pbkdf2-sha512$iterations$salt$hash where there is no pgcrypto.';
