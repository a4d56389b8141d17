"""The lexicon of tinyworld, as plain data.

Every list is ordered from frequent to rare; `tables.py` turns the order into probabilities. Verbs are written
past/singular/plural, with their object after a colon ("mended/mends/mend: the nets"); nouns of the scenery are written
singular/plural.
"""

from dataclasses import dataclass


def listed(text: str) -> tuple[str, ...]:
    """The comma-separated entries of a text, on however many lines."""
    return tuple(entry for part in text.split(",") if (entry := " ".join(part.split())))


@dataclass(frozen=True)
class Domain:
    """One of the four domains; its name is the topic label of a document."""

    name: str
    places: tuple[str, ...]  # where a document is set, with preposition
    goals: tuple[str, ...]  # destinations
    spots: tuple[str, ...]  # where things are put
    jobs: tuple[str, ...]
    singular: tuple[str, ...]  # things that can be carried
    plural: tuple[str, ...]
    scenery: tuple[str, ...]  # singular/plural: things that cannot be carried
    conditions: tuple[str, ...]  # predicates of the scenery
    work: tuple[str, ...]  # past/singular/plural and an object: activities


HARBOUR = Domain(
    name="harbour",
    places=listed("""
        on the north pier, at the old harbour, on the shingle beach, by the lighthouse, on the sea wall,
        in the fish shed, at the ferry landing, under the cliffs, by the tidal pools, at the boat yard
    """),
    goals=listed("""
        to the end of the pier, to the boathouse, down to the water, to the lighthouse door,
        along the sea wall, to the ferry, across the sand, to the rocks
    """),
    spots=listed("""
        on the deck, beside the nets, under the bench, in the rowing boat, behind the barrels,
        on the harbour steps, against the mast, in the cabin, on the wet sand, below the hatch
    """),
    jobs=listed("""
        sailor, lighthouse keeper, fisherman, ferryman, diver, harbour master, net maker, boat builder,
        captain, cook, smuggler, swimmer, oyster seller, pilot
    """),
    singular=listed("""
        rope, lantern, shell, net, compass, oar, bucket, anchor, whistle, telescope, crab, buoy, kettle,
        map, paddle, hook, sponge, flag, starfish, barrel, pearl, eel, lobster, sail, cork, chart, pulley
    """),
    plural=listed("""
        boots, mussels, oars, shells, fishing lines, ropes, oilskins, pebbles, lanterns, herrings, hooks,
        feathers, corks, mittens
    """),
    scenery=listed("""
        boat/boats, wave/waves, gull/gulls, mast/masts, rock/rocks, plank/planks, seal/seals, cloud/clouds,
        ship/ships, cave/caves, crate/crates, pelican/pelicans, tide/tides, raft/rafts
    """),
    conditions=listed("""
        wet, salty, slippery, calm, rough, windswept, covered in seaweed, far away, adrift, full of holes,
        safe, half sunk, white with foam, painted green, out of reach
    """),
    work=listed("""
        mended/mends/mend: the nets, swept/sweeps/sweep: the deck, rowed/rows/row: across the bay,
        hauled/hauls/haul: in the anchor, sang/sings/sing: a sea song, scrubbed/scrubs/scrub: the hull,
        caught/catches/catch: a mackerel, dived/dives/dive: from the rocks, watched/watches/watch: the tide,
        coiled/coils/coil: the long rope, signalled/signals/signal: to the ferry, gutted/guts/gut: six herrings,
        trimmed/trims/trim: the lamp, bailed/bails/bail: out the dinghy, steered/steers/steer: round the buoy
    """),
)

MARKET = Domain(
    name="market",
    places=listed("""
        in the market square, at the flower stall, outside the bakery, in the covered market, at the corner shop,
        by the cheese stall, in the tea room, at the autumn fair, on the high street, beside the fountain
    """),
    goals=listed("""
        to the bakery, to the bank, across the square, to the next stall, down the high street,
        to the tea room, round the fountain, to the back of the shop
    """),
    spots=listed("""
        on the counter, under the stall, beside the till, in the shop window, behind the curtain,
        on the top shelf, in the wicker basket, next to the scales, on the cart, by the cash box
    """),
    jobs=listed("""
        baker, grocer, florist, butcher, cheesemonger, tailor, banker, shopkeeper, pedlar, milkman,
        jeweller, candle maker, weaver, auctioneer
    """),
    singular=listed("""
        loaf, basket, cheese, cabbage, apple, purse, coin, ribbon, teapot, bottle, scarf, hat, pumpkin, ledger,
        bouquet, jar, onion, cake, umbrella, receipt, parcel, orange, candle, egg, sausage, mirror, vase
    """),
    plural=listed("""
        apples, coins, cherries, gloves, candles, carrots, buns, ribbons, pears, slippers, walnuts, onions,
        turnips, buttons
    """),
    scenery=listed("""
        stall/stalls, shop/shops, sign/signs, customer/customers, price/prices, cart/carts, pigeon/pigeons,
        lamp post/lamp posts, awning/awnings, barrow/barrows, wagon/wagons, window/windows, poster/posters, sack/sacks
    """),
    conditions=listed("""
        cheap, crowded, striped, for sale, sold out, expensive, busy, noisy, closed, half price, freshly painted,
        full of flour, open late, decorated with flowers, empty by noon
    """),
    work=listed("""
        baked/bakes/bake: the bread, counted/counts/count: the money, weighed/weighs/weigh: the plums,
        opened/opens/open: the shop, haggled/haggles/haggle: over the price, wrapped/wraps/wrap: a present,
        stacked/stacks/stack: the tins, paid/pays/pay: the bill, tasted/tastes/taste: the jam,
        swept/sweeps/sweep: the pavement, arranged/arranges/arrange: the roses, signed/signs/sign: a contract,
        sharpened/sharpens/sharpen: the knives, sold/sells/sell: nine cabbages, rang/rings/ring: the till
    """),
)

GAMES = Domain(
    name="games",
    places=listed("""
        on the village green, at the running track, in the gymnasium, on the cricket field, by the finish line,
        at the swimming baths, on the tennis court, in the old stadium, at the archery range, on the frozen pond
    """),
    goals=listed("""
        to the finish line, to the dressing room, round the track, to the far goal, up the steps,
        over to the judges, to the edge of the field, to the pavilion
    """),
    spots=listed("""
        on the grass, beside the goal, under the scoreboard, in the locker, behind the referee,
        on the starting line, by the tent, on the winning post, in the kit bag, near the trophy table
    """),
    jobs=listed("""
        goalkeeper, runner, referee, coach, champion, wrestler, archer, groundskeeper, cyclist, bowler,
        gymnast, skater, umpire, scorer
    """),
    singular=listed("""
        ball, racket, medal, trophy, bat, jersey, arrow, towel, helmet, stopwatch, bow, oar, baton, hoop, javelin,
        ticket, cap, drum, banner, apple, banana, kite, ice pack, ankle strap, saddle, rosette, cushion
    """),
    plural=listed("""
        skates, medals, arrows, trainers, goggles, stilts, socks, dumb-bells, tickets, knee pads, rackets,
        balloons, stumps, laces
    """),
    scenery=listed("""
        goal/goals, tent/tents, flag post/flag posts, spectator/spectators, hurdle/hurdles, lane/lanes,
        judge/judges, bench/benches, rival/rivals, bicycle/bicycles, pony/ponies, score/scores,
        loudspeaker/loudspeakers, puddle/puddles
    """),
    conditions=listed("""
        muddy, ready, ahead, level, fast, out of breath, injured, cheering, well matched, behind by two points,
        disqualified, tired, unbeaten, in the lead, unlucky
    """),
    work=listed("""
        won/wins/win: the race, scored/scores/score: a goal, threw/throws/throw: the discus, ran/runs/run: two laps,
        trained/trains/train: for the final, blew/blows/blow: the starting horn, missed/misses/miss: the penalty,
        kept/keeps/keep: the score, jumped/jumps/jump: over the hurdle, practised/practises/practise: the relay,
        cheered/cheers/cheer: for the losers, chalked/chalks/chalk: the lines, lost/loses/lose: the match,
        balanced/balances/balance: on the beam, saved/saves/save: the penalty
    """),
)

WORKSHOP = Domain(
    name="workshop",
    places=listed("""
        in the clock shop, at the observatory, in the inventor's shed, at the printing house, in the glass works,
        by the water mill, in the attic laboratory, at the repair yard, under the great telescope, in the signal box
    """),
    goals=listed("""
        to the workbench, to the boiler room, up the spiral stairs, to the library, round the engine,
        to the control panel, out to the yard, to the roof
    """),
    spots=listed("""
        on the workbench, inside the cabinet, under the lathe, beside the furnace, behind the boiler,
        on the blueprint, in the tool chest, next to the battery, on the window sill, between the gears
    """),
    jobs=listed("""
        inventor, clockmaker, engineer, astronomer, blacksmith, mechanic, printer, glass blower, chemist,
        carpenter, apprentice, professor, plumber, electrician
    """),
    singular=listed("""
        hammer, screwdriver, spring, lens, battery, magnet, notebook, wrench, clock, lamp, engine, wheel, switch,
        radio, thermometer, robot, bolt, drill, engraving, inkwell, alarm, pipe, motor, axle, fuse, prism, gear
    """),
    plural=listed("""
        pliers, screws, springs, wires, gears, goggles, magnets, notes, nails, scissors, batteries, bolts,
        sketches, cogs
    """),
    scenery=listed("""
        machine/machines, lever/levers, wire/wires, telescope/telescopes, gauge/gauges, shelf/shelves,
        blueprint/blueprints, comet/comets, valve/valves, pendulum/pendulums, spark/sparks, belt/belts,
        chimney/chimneys, experiment/experiments
    """),
    conditions=listed("""
        broken, dusty, hot, accurate, loud, covered in oil, almost finished, too small, upside down, electric,
        ticking, switched off, nearly invisible, held together with string, out of order
    """),
    work=listed("""
        repaired/repairs/repair: the clock, oiled/oils/oil: the hinges, tested/tests/test: the engine,
        measured/measures/measure: the distance, drew/draws/draw: a plan, built/builds/build: a flying machine,
        polished/polishes/polish: the lens, heated/heats/heat: the metal, solved/solves/solve: the equation,
        wound/winds/wind: the spring, studied/studies/study: the stars, wired/wires/wire: the bell,
        tightened/tightens/tighten: every screw, wrote/writes/write: a report, melted/melts/melt: the glass
    """),
)

DOMAINS = (HARBOUR, MARKET, GAMES, WORKSHOP)

WOMEN = listed("""
    Agnes, Clara, Maud, Rosa, Edith, Nora, Ivy, Olive, Hazel, Mabel, Winnie, Greta, Dora, Flora, Beatrix, Lottie,
    Stella, Freya, Martha, Opal, Petra, Sylvie, Tilda, Una, Violet, Wanda, Yvonne, Zelda, Bridget, Cora, Della,
    Elsie, Fern, Gwen, Hilda, Ingrid, Joan, Kitty, Lena, Myrtle, Nell, Odette, Poppy, Ruth, Saskia, Thea
""")
MEN = listed("""
    Tom, Albert, Bruno, Cyril, Edgar, Felix, Gus, Harold, Ivan, Jasper, Karl, Leo, Milo, Ned, Oscar, Percy, Quentin,
    Rupert, Silas, Theo, Victor, Walter, Amos, Basil, Cedric, Desmond, Ernest, Franz, Gilbert, Hugo, Igor, Jonas,
    Kurt, Lionel, Magnus, Norman, Otto, Pascal, Reuben, Stanley, Tobias, Ulric, Vernon, Wilfred, Yusuf, Zeno
""")
GROUPS = listed("""
    the twins, the triplets, the cousins, the visitors, the neighbours, the pupils, the musicians, the newlyweds
""")
SURNAMES = listed("""
    Fenn, Marlow, Pike, Thistle, Crane, Bellamy, Hobbs, Larkin, Quill, Rook, Sorrel, Tuck, Vance, Wick, Yarrow,
    Ashby, Brack, Cobb, Dunn, Frost, Garlick, Hale, Inch, Jolly, Kemp, Lamb, Moss, Nettle, Orchard, Penny
""")
WOMEN_RELATIONS = listed("sister, aunt, daughter, mother, niece, grandmother")
MEN_RELATIONS = listed("brother, uncle, son, father, nephew, grandfather")
TOWNS = listed("""
    Penwick, Harrow Bay, Little Marsh, Tarn, Osterley, Fallow, Brindle, Saint Orme, Kestrel Hill, Wexcombe,
    Low Fen, Pollard, Quince, Amberley, Dunmouth, Cold Ash, Merrow, Thornby, Ullin, Great Nod, Skerry, Vale End,
    Hopton, Yeldham
""")

SINGULAR = listed("""
    key, letter, book, box, ladder, blanket, bell, spoon, photograph, pencil, suitcase, chair, envelope, violin,
    tin, knife, guitar, stone, diary, cup, newspaper, broom, sandwich, postcard, puppet, instrument, ink bottle,
    needle, trumpet, jug, apron, walking stick, pillow, album
""")
PLURAL = listed("""
    papers, keys, spectacles, flowers, biscuits, letters, cards, books, marbles, spoons, trousers, sandwiches,
    stamps, matches
""")
ADJECTIVES = listed("""
    small, red, heavy, wooden, blue, rusty, broken, new, silver, green, shiny, yellow, borrowed, plain, curious,
    brass, famous, tiny, leather, crooked, dented, paper, golden, lost, square, cracked, spotted, purple, sticky,
    mysterious, secondhand, round, black, polished, striped, valuable, wobbly, hollow, folded, very large
""")
VOWEL_ADJECTIVES = listed("old, empty, enormous, ugly, iron, ancient, odd, unusual, expensive")

WEATHER = listed("""
    cold, foggy, sunny, windy, rainy, warm, grey, bright, stormy, frosty, misty, quiet, snowy, dark, hot, wild,
    cloudy, dry, breezy, damp
""")
DAYPARTS = listed("morning, day, afternoon, evening, holiday, market day, working day, birthday")
SKIES = listed("fog, rain, sunshine, snow, thunder, a strong wind, a thin mist, a hard frost, a rainbow, a full moon")
WEEKDAYS = listed("Monday, Friday, Tuesday, Thursday, Wednesday, Saturday, Sunday")
HOURS = listed("noon, lunch, dark, dawn, supper, midnight, tea time, closing time")

OPENERS = listed("""
    Then, Later, Soon, Suddenly, After lunch, That afternoon, A little later, Before long, Next, Half an hour later,
    As usual, At last
""")
WHEREABOUTS = listed("""
    Nearby, Outside, In the distance, By the door, Overhead, Close by, Not far away, To the left, Round the corner,
    Just behind them
""")
STANDING = listed("""
    there early, the first to arrive, late again, in a hurry, ready for anything, waiting by the gate, there as usual,
    dressed for the weather, full of plans, glad to be there, hungry already, up since dawn
""")
INTENSIFIERS = listed("very, rather, quite, truly, terribly, a little")

TAKE = listed("""
    picked up/picks up/pick up, found/finds/find, borrowed/borrows/borrow, bought/buys/buy, took/takes/take,
    discovered/discovers/discover, fetched/fetches/fetch, dug up/digs up/dig up, received/receives/receive,
    chose/chooses/choose
""")
PUT = listed("""
    put down/puts down/put down, left/leaves/leave, hid/hides/hide, dropped/drops/drop, placed/places/place,
    forgot/forgets/forget, set aside/sets aside/set aside
""")
GIVE = listed("""
    gave/gives/give, handed/hands/hand, lent/lends/lend, passed/passes/pass, offered/offers/offer,
    returned/returns/return
""")
HANDLE = listed("""
    looked at/looks at/look at, carried/carries/carry, cleaned/cleans/clean, held up/holds up/hold up,
    admired/admires/admire, examined/examines/examine, shook/shakes/shake, painted/paints/paint, dried/dries/dry,
    waved/waves/wave
""")
MEET = listed("""
    thanked/thanks/thank, helped/helps/help, greeted/greets/greet, followed/follows/follow,
    smiled at/smiles at/smile at, waited for/waits for/wait for, called/calls/call, teased/teases/tease,
    praised/praises/praise, argued with/argues with/argue with
""")
MOVE = listed("""
    walked/walks/walk, hurried/hurries/hurry, went/goes/go, ran off/runs off/run off, wandered/wanders/wander,
    marched/marches/march, crept/creeps/creep, danced/dances/dance
""")
ARRIVE = listed("arrived/arrives/arrive, turned up/turns up/turn up, came by/comes by/come by, appeared/appears/appear")
SAY = listed("""
    said/says/say, whispered/whispers/whisper, shouted/shouts/shout, answered/answers/answer, muttered/mutters/mutter,
    explained/explains/explain
""")
DONE = listed(
    "noticed, drawn, counted, painted, found, admired, described, photographed, watched, missed, visited, remembered"
)
FAULTS = listed("heavy, wet, useful, warm, dirty, precious, broken, beautiful, loose, cold, noisy, out of place")
TAILS = listed("""
    again, at once, before lunch, in the rain, for a while, at noon, without a sound, after all, with great care,
    once more, for the last time, by mistake, as fast as possible, just in time, in secret
""")

MOMENTS = listed("again, for once, after all, for a moment, all day, in the end")

FINE = listed("""
    lovely, splendid, wonderful, cheerful, delightful, perfect, merry, glorious, good, pleasant, charming, marvellous,
    excellent, amusing, enchanting, happy, magical, brilliant, peaceful, fortunate
""")
POOR = listed("""
    dreadful, miserable, gloomy, terrible, rotten, dismal, wretched, bleak, bad, tiresome, dull, hopeless,
    awful, annoying, unpleasant, sad, ghastly, disappointing, lonely, disastrous
""")
GLAD = listed("""
    happy, proud, pleased, delighted, cheerful, grateful, relieved, hopeful, amused, content, thrilled, calm
""")
SORRY = listed("""
    sad, cross, worried, bored, ashamed, lonely, angry, upset, gloomy, disappointed, nervous, jealous
""")
REWARDS = listed("""
    a plum cake, three apple pies, a kind word, ten shillings, a pot of honey, two tickets, a warm supper, a brass band,
    a new hat, half a cheese
""")
TRAITS = listed(
    "strong, honest, cheerful, patient, quick, tidy, brave, polite, clever, tall, never late, good with children"
)
